"""Lines of a file or a pipe as records: blocks in, (topic, key) from templates.

A template is text with ``{n}``, the n-th field of the line, counted from 0. Fields are what lies
between separators; quotes mean nothing. Memory is bounded by one block and one longest line.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

import typer

from meshmq import limits
from meshmq.cli.boundary import CommandError
from meshmq.errors import InvalidName
from meshmq.names import check_topic

BLOCK_BYTES = 256 * 1024  # larger blocks gained nothing, smaller ones make progress smoother
TOPIC_CACHE_COUNT_MAX = 65_536  # as in names.check_topic
_FIELD = re.compile(r"\{(\d{1,3})\}")


def has_columns(text: str | None) -> bool:
    """Whether it is a template that takes something from the line."""
    return text is not None and _FIELD.search(text) is not None


def refuse_columns(text: str | None, hint: str) -> None:
    """Without --lines there is no line to take a field from; else wrong usage of ``hint``."""
    if has_columns(text):
        raise typer.BadParameter("columns like {0} need --lines", param_hint=hint)


class Run(NamedTuple):
    """Lines of one topic, in order. ``keys`` is None where no line has one; a job that has a
    ``dedup_id`` is a run of its own."""

    topic: str
    values: list[bytes]
    keys: list[bytes | None] | None
    dedup_id: str | None = None

    def pieces(self, count: int) -> Iterator[Run]:
        """The same lines in runs of at most ``count``."""
        for i in range(0, len(self.values), count):
            keys = self.keys[i : i + count] if self.keys else None
            yield Run(self.topic, self.values[i : i + count], keys)


class Template:
    """Text with ``{n}`` in it, filled from the fields of a line."""

    def __init__(self, text: str) -> None:
        parts = _FIELD.split(text)
        self.text = text
        self.columns = tuple(int(index) for index in parts[1::2])
        self._literals = [part.encode("utf-8", "surrogateescape") for part in parts[0::2]]

    def fill(self, fields: list[bytes]) -> bytes:
        """The text with the fields put in; IndexError when the line has too few."""
        filled = self._literals[0]
        for column, literal in zip(self.columns, self._literals[1:], strict=True):
            filled += fields[column] + literal
        return filled


def read_blocks(stream: BinaryIO, skip: int = 0) -> Iterator[tuple[int, list[bytes]]]:
    """Blocks of whole lines without their newlines, each with its first line's number (from 1).

    Whatever a pipe has is given on at once. ``skip`` lines at the start are left out. A line that
    cannot be a value is refused, after the lines before it were given.
    """
    number, rest = 1, b""
    while block := stream.read1(BLOCK_BYTES):  # type: ignore[attr-defined]
        lines = (rest + block).split(b"\n")
        rest = lines.pop()
        yield from _checked(number, lines, skip)
        number += len(lines)
        if len(rest) > limits.VALUE_BYTES_MAX:
            raise _too_large(number, f"more than {limits.VALUE_BYTES_MAX}")
    if rest:
        yield from _checked(number, [rest], skip)


def _checked(number: int, lines: list[bytes], skip: int) -> Iterator[tuple[int, list[bytes]]]:
    if number <= skip:
        lines = lines[skip - number + 1 :]
        number = skip + 1
    if not lines:
        return
    if max(map(len, lines)) <= limits.VALUE_BYTES_MAX:
        yield number, lines
        return
    bad = next(i for i, line in enumerate(lines) if len(line) > limits.VALUE_BYTES_MAX)
    if bad:
        yield number, lines[:bad]
    raise _too_large(number + bad, str(len(lines[bad])))


def _too_large(number: int, size: str) -> CommandError:
    return CommandError(
        f"line {number} has {size} bytes, the limit of one message is "
        f"{limits.VALUE_BYTES_MAX} bytes"
    )


class LineRouter:
    """Gives each line its topic and key, by templates or the same for all."""

    def __init__(self, topic: str, key: str | None, separator: str) -> None:
        self._topic = Template(topic)
        self._key = Template(key) if key is not None else None
        self._separator = separator.encode("utf-8", "surrogateescape")
        self._topics: dict[bytes, str] = {}
        columns = self._topic.columns + (self._key.columns if self._key else ())
        self._split_count = max(columns) + 1 if columns else 0

    def runs(self, number: int, lines: list[bytes]) -> Iterator[Run]:
        """One run for each topic, its lines in their order; CommandError names a bad line, after
        the lines before it were given."""
        if not self._split_count:
            topic = self._topic_of(number, [])
            key = self._key_of(number, [])
            yield Run(topic, lines, [key] * len(lines) if key is not None else None)
            return
        runs: dict[str, Run] = {}
        error: CommandError | None = None
        for at, line in enumerate(lines, number):
            fields = line.removesuffix(b"\r").split(self._separator, self._split_count)
            try:
                topic = self._topic_of(at, fields)
                key = self._key_of(at, fields)
            except IndexError:
                error = CommandError(
                    f"line {at} has {len(fields)} fields, too few for "
                    f"{{{self._split_count - 1}}} (fields are counted from 0)"
                )
                break
            except CommandError as found:
                error = found
                break
            run = runs.get(topic)
            if run is None:
                run = runs[topic] = Run(topic, [], [])
            run.values.append(line)
            run.keys.append(key)  # type: ignore[union-attr]
        for run in runs.values():
            yield run if any(run.keys or ()) else run._replace(keys=None)
        if error is not None:
            raise error

    def _topic_of(self, number: int, fields: list[bytes]) -> str:
        name = self._topic.fill(fields)
        topic = self._topics.get(name)
        if topic is None:
            try:
                topic = check_topic(name.decode())
            except UnicodeDecodeError:
                raise CommandError(f"line {number}: topic {name!r} is not UTF-8") from None
            except InvalidName as error:
                raise CommandError(f"line {number}: {error}") from None
            if len(self._topics) >= TOPIC_CACHE_COUNT_MAX:
                self._topics.clear()
            self._topics[name] = topic
        return topic

    def _key_of(self, number: int, fields: list[bytes]) -> bytes | None:
        if self._key is None:
            return None
        key = self._key.fill(fields)
        if len(key) > limits.KEY_BYTES_MAX:
            raise CommandError(
                f"line {number}: key of {len(key)} bytes exceeds the limit of "
                f"{limits.KEY_BYTES_MAX} bytes"
            )
        return key or None
