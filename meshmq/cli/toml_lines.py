"""Where keys and tables are in TOML text: ``tomllib`` reads it, but tells no lines.

The text is taken to be valid, which ``tomllib`` judges. In other text what is found may be wrong;
the scanner ends all the same.
"""

from __future__ import annotations

import re
import tomllib
from typing import NamedTuple

KeyPath = tuple[str | int, ...]
"""Keys from the top on, and indexes of arrays: ``("link", 0, "to")``."""

_BLANK = re.compile(r"(?:[ \t\r\n]+|#[^\n]*)*")
_SPACE = re.compile(r"[ \t]*")
_HEADER_END = re.compile(r"[ \t]*\]{0,2}")
# A multi-line string may have one or two quotes more before the three that end it.
_STRINGS = (
    r'"""(?:\\.|[^\\])*?"{3,5}', r"'''.*?'{3,5}", r'"(?:\\.|[^"\\\n])*"', r"'[^'\n]*'",
)  # fmt: skip
_STRING = re.compile("|".join(_STRINGS), re.DOTALL)
_BARE = re.compile(r"""[^\s=\[\]{},#"'.]+""")
_SCALAR = re.compile(r"[^,\]}#\n]*")  # a date may have a space in it


class Place(NamedTuple):
    """A key, a table's header or an element of an array, and its line, from 1."""

    path: KeyPath
    line: int


class TomlLines:
    """Lines of what is in ``text``.

    Attributes:
        places: keys, headers and elements in the order of the text; what no key or header names
            by itself (``a`` of ``a.b = 1``) is there where it is first met.
    """

    def __init__(self, text: str) -> None:
        self.places: list[Place] = []
        self._text = text
        self._at = 0
        self._line, self._counted_to = 1, 0
        self._tables: dict[KeyPath, int] = {}  # how many [[headers]] each array has had
        self._lines: dict[KeyPath, int] = {}
        self._document()

    def of(self, *path: str | int) -> int:
        """Line of the key or the header at ``path``; if it has none, of what it would be in."""
        while path and path not in self._lines:
            path = path[:-1]
        return self._lines.get(path, 1)

    # -- notes -------------------------------------------------------------------------------------

    def _note(self, path: KeyPath, *, is_named: bool = True) -> None:
        if not is_named and path in self._lines:
            return
        self._line += self._text.count("\n", self._counted_to, self._at)
        self._counted_to = self._at
        self._lines[path] = self._line
        self.places.append(Place(path, self._line))

    # -- grammar -----------------------------------------------------------------------------------

    def _document(self) -> None:
        table: KeyPath = ()
        while self._next():
            before = self._at
            if self._text[before] == "[":
                table = self._header()
            else:
                self._pair(table)
            self._at = max(self._at, before + 1)

    def _header(self) -> KeyPath:
        is_array = self._text.startswith("[[", self._at)
        self._at += 1 + is_array
        key = self._key()
        path: KeyPath = ()
        for part in key[:-1]:
            path = (*path, part)
            self._note(path, is_named=False)
            if path in self._tables:
                path = (*path, self._tables[path] - 1)
        path = (*path, *key[-1:])
        if is_array:
            self._note(path, is_named=False)
            count = self._tables.get(path, 0)
            self._tables[path] = count + 1
            path = (*path, count)
        self._note(path)
        self._skip(_HEADER_END)
        return path

    def _pair(self, table: KeyPath) -> None:
        start = self._at
        key = self._key()
        if not key:
            return
        end, self._at = self._at, start  # the line is the one where the key begins
        for count in range(1, len(key)):
            self._note((*table, *key[:count]), is_named=False)
        path = (*table, *key)
        self._note(path)
        self._at = end
        if self._text.startswith("=", self._at):
            self._at += 1
            self._skip(_SPACE)
            self._value(path)

    def _key(self) -> tuple[str, ...]:
        """The parts of a key, which may have dots and quotes; empty: there is none."""
        parts: list[str] = []
        while True:
            self._skip(_SPACE)
            start = self._at
            if self._skip(_STRING):
                parts.append(_unquoted(self._text[start : self._at]))
            elif self._skip(_BARE):
                parts.append(self._text[start : self._at])
            else:
                return tuple(parts)
            self._skip(_SPACE)
            if not self._text.startswith(".", self._at):
                return tuple(parts)
            self._at += 1

    def _value(self, path: KeyPath) -> None:
        if self._text.startswith("[", self._at):
            self._array(path)
        elif self._text.startswith("{", self._at):
            self._inline(path)
        elif not self._skip(_STRING):
            self._skip(_SCALAR)

    def _array(self, path: KeyPath) -> None:
        self._at += 1
        index = 0
        while (mark := self._next()) and mark != "]":
            before = self._at
            if mark == ",":
                index += 1
            else:
                self._note((*path, index))
                self._value((*path, index))
            self._at = max(self._at, before + 1)
        self._at += 1

    def _inline(self, path: KeyPath) -> None:
        self._at += 1
        while (mark := self._next()) and mark != "}":
            before = self._at
            if mark != ",":
                self._pair(path)
            self._at = max(self._at, before + 1)
        self._at += 1

    def _next(self) -> str:
        """The next character that is neither blank nor in a comment; empty at the end."""
        self._skip(_BLANK)
        return self._text[self._at : self._at + 1]

    def _skip(self, what: re.Pattern[str]) -> bool:
        """Go past ``what``; whether there was any."""
        found = what.match(self._text, self._at)
        if found is None:
            return False
        self._at = found.end()
        return bool(found[0])


def _unquoted(key: str) -> str:
    try:
        return str(tomllib.loads(f"key = {key}")["key"])
    except tomllib.TOMLDecodeError:
        return key
