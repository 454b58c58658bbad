"""Settings of a node: their defaults, its TOML file, what its options say, and their checks.

Everything that is wrong with a file is told at once, each with its line.
"""

from __future__ import annotations

import difflib
import os
import re
import socket
import time
import tomllib
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from datetime import datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any

from meshmq.cli.boundary import ConfigFaults
from meshmq.cli.node_options import DEFAULT_URL
from meshmq.cli.toml_lines import TomlLines
from meshmq.core.claims import disjoint
from meshmq.core.link_wish import COMPRESSIONS, LinkWish
from meshmq.errors import ConfigError, InvalidArgument, InvalidName
from meshmq.limits import (
    COPIES_MAX,
    FENCE_NS_MAX,
    FENCE_NS_MIN,
    LINK_BUDGET_BYTES_MIN,
    LINK_ENDPOINTS_MAX,
    LINK_PATTERNS_MAX,
    LINK_PRIORITIES_MAX,
    MS,
    SECOND,
)
from meshmq.names import check_mesh, check_pattern

_SETTINGS: dict[str, tuple[type, Any]] = {
    "name": (str, None),
    "mesh": (str, "local"),
    "listen": (str, DEFAULT_URL),
    "data": (str, None),
    "insecure": (bool, False),
    "mdns": (bool, True),
    "site": (str, None),
    "listen_nodes": (str, None),
    "peers": (list, []),
    "copies": (int, 1),
}
_KNOWN = (*_SETTINGS, "link")
_OF_SITE = ("name", "fence_after")
_OF_LINK = {
    "to": str, "endpoints": list, "topics": list, "exclude": list, "live": list,
    "services": list, "bytes_per_second": str, "compression": str,
    "priority": list, "since": str, "retention": str, "retention_bytes": str,
}  # fmt: skip
_NEEDED_OF_LINK = ("to", "endpoints", "topics")
_SHOWN = {
    "bytes_per_second": '"20MB"', "since": '"7d"', "retention": '"30d"',
    "retention_bytes": '"50GB"',
}  # fmt: skip
"""Of what many would write as a number."""
_KINDS = {str: "a string", int: "a whole number", bool: "true or false", list: "a list of strings"}
_OR_TABLE = " (or a table, [site], with its 'name')"
_IF_FAULTY = MappingProxyType({"site": "a-site", "mesh": "a-mesh", "insecure": True})
"""What is taken for them when they are faulty, so that nothing else is told because of that."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}\Z")
_ENDPOINT = re.compile(r"tcp://[^\s\0/?#@]+:[0-9]{1,5}\Z")
_ANYWHERE = ("tcp://0.0.0.0:", "tcp://[::]:", "tcp://*:")
_NOTHING: Mapping[str, Any] = MappingProxyType({})
_NEITHER: dict[str, Any] = {"links": (), "fence_after": 0}


def settings_of(path: Path | None, options: Mapping[str, Any] = _NOTHING) -> dict[str, Any]:
    """All settings of a node: what ``options`` say, else the file, else the defaults.

    ``data`` is a Path, ``links`` a tuple of LinkWish, ``fence_after`` ns (0: none); the others are
    as in the file, or None.

    Raises:
        ConfigFaults: the file has faults.
        ConfigError: an option is wrong, or the file cannot be read.
    """
    settings = {**_defaults(), **(read_config(path, options) if path else {}), **options}
    if settings["name"] is None:
        settings["name"] = default_name(settings["site"])
    for _, reason in _value_faults(settings):
        raise ConfigError(reason)
    return {**settings, "data": data_directory(settings["data"], settings["name"])}


def read_config(path: Path, options: Mapping[str, Any] = _NOTHING) -> dict[str, Any]:
    """The settings in a TOML file; ``options`` go first, and are not looked at but for that.

    ``site`` is the site's name however it was written, ``links`` a tuple of LinkWish.

    Raises:
        ConfigFaults: everything that is wrong with the file.
        ConfigError: it cannot be read.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from None
    try:
        reading = _Reading(data.decode(), options)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ConfigFaults([f"{path}:{line}: is not valid TOML: {error}"]) from None
    except (ValueError, RecursionError) as error:  # no TOML; a number too long, nested too deep
        raise ConfigFaults(
            [f"{path}:{_line_in(error, data)}: is not valid TOML: {error}"]
        ) from None
    if reading.faults:
        faults = sorted(reading.faults, key=lambda fault: fault[0])
        raise ConfigFaults([f"{path}:{line}: {reason}" for line, reason in faults])
    return reading.settings


def default_name(site: str | None) -> str:
    """What a node is called that nobody names: in a site as its host, as no other one should be."""
    host = re.sub(r"[^A-Za-z0-9_.-]", "-", socket.gethostname().partition(".")[0])[:64]
    return "node-1" if site is None or not _NAME.match(host) else host


def data_directory(given: str | Path | None, name: str) -> Path:
    """Where the log of node ``name`` is, ``~`` meaning a home; ConfigError if there is none."""
    directory = Path(given or default_data_directory(name))
    try:
        return directory.expanduser()
    except RuntimeError:
        raise ConfigError(f"{directory} names a home that there is not: write it out") from None


def default_data_directory(name: str) -> Path:
    """Where the log of a node called ``name`` lives when nobody says otherwise."""
    base = os.environ.get("XDG_DATA_HOME")
    # The specification says that a relative XDG path is to be ignored.
    root = Path(base) if base and os.path.isabs(base) else Path.home() / ".local" / "share"
    return root / "meshmq" / name


def _defaults() -> dict[str, Any]:
    return {key: default for key, (_, default) in _SETTINGS.items()} | _NEITHER


def _span(value: object) -> tuple[int, str]:
    """ns of a fence, or what is wrong with it."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)(ms|s|m|h)", value) if isinstance(value, str) else None
    if found is None:
        return 0, f"fence_after is a text like '60s' or '5m', not {value!r}"
    ns = int(
        float(found[1]) * {"ms": MS, "s": SECOND, "m": 60 * SECOND, "h": 3600 * SECOND}[found[2]]
    )
    if not FENCE_NS_MIN <= ns <= FENCE_NS_MAX:
        return 0, f"fence_after is from 5s to 24h, not {value!r}"
    return ns, ""


def _line_in(error: BaseException, data: bytes) -> int:
    """The line that an error of tomllib names; where it names the end, the last one; or 1."""
    found = re.search(r"\(at line (\d+),", str(error))
    if found:
        return int(found[1])
    return max(len(data.splitlines()), 1) if "at end of document" in str(error) else 1


# -- values, wherever they are from ----------------------------------------------------------------


def _value_faults(settings: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """What is wrong with values, each with the setting; but for addresses and the mesh, which are
    checked where they are used."""
    site, name = settings["site"], settings["name"]
    if name is not None and not _NAME.match(name):
        yield "name", _not_a_name("node", name)
    if not 1 <= settings["copies"] <= COPIES_MAX:
        yield "copies", f"copies is from 1 to {COPIES_MAX}, not {settings['copies']}"
    if site is not None:
        if not _NAME.match(site):
            yield "site", _not_a_name("site", site)
        return
    for key, option in (("peers", "--peer"), ("listen_nodes", "--listen-nodes")):
        if settings[key]:
            yield key, f"{option} is for nodes of a site: give --site NAME as well"
    if settings["copies"] > 1:
        yield "copies", "--copies is for nodes of a site: give --site NAME as well"


def _address_faults(
    settings: Mapping[str, Any], keys: Collection[str]
) -> Iterator[tuple[str, str]]:
    for key in ("listen", "listen_nodes", "peers"):
        if key in keys:
            addresses = settings[key] if key == "peers" else [settings[key]]
            for address in addresses:
                reason = _address_fault(address, settings, bind=key != "peers")
                if reason:
                    yield key, reason


def _address_fault(address: str, settings: Mapping[str, Any], *, bind: bool) -> str:
    from meshmq.shell.sockets import check_url  # most commands need no ZeroMQ

    try:
        check_url(address, bind=bind, insecure=settings["insecure"], mesh=settings["mesh"])
    except ConfigError as error:
        return str(error)
    return ""


def _not_a_name(of: str, name: str) -> str:
    return f"{of} name {name!r} must be 1 to 64 letters, digits, '-', '_' or '.'"


def _kind_fault(key: str, value: object, kind: type) -> str:
    """Why ``value`` is not of ``kind``; empty: it is."""
    if type(value) is not kind:
        return f"'{key}' must be {_KINDS[kind]}" + (f": {_SHOWN[key]}" if key in _SHOWN else "")
    if isinstance(value, list) and not all(isinstance(item, str) for item in value):
        return f"'{key}' must be {_KINDS[list]}"
    if isinstance(value, str) and "\0" in value:
        return f"'{key}' has a NUL in it"
    return ""


# -- the file --------------------------------------------------------------------------------------


class _Reading:
    """What is in the text of a file.

    Attributes:
        settings: see read_config; whole only if there are no faults.
        faults: line and reason of each.

    Raises:
        ValueError, RecursionError: it is no TOML.
    """

    def __init__(self, text: str, options: Mapping[str, Any]) -> None:
        self.settings: dict[str, Any] = {}
        self.faults: list[tuple[int, str]] = []
        found = self._parse(text)
        for key, value in found.items():
            if key == "site" and isinstance(value, dict):
                self._take_site(value)
            elif key in _SETTINGS:
                reason = _kind_fault(key, value, _SETTINGS[key][0])
                more = _OR_TABLE if key == "site" and not isinstance(value, str) else ""
                self._take(key, value, reason and reason + more, key)
            elif key != "link":
                self._fault(_unknown(key, _KNOWN), key)
        ours = self.settings.keys() - options.keys()
        taken = self.settings.keys() | options.keys()
        instead = {k: v for k, v in _IF_FAULTY.items() if k in found and k not in taken}
        merged = {**_defaults(), **self.settings, **instead, **options}
        self._check(merged, ours)
        if "link" in found:
            self.settings["links"] = self._links(found["link"], merged)

    def _parse(self, text: str) -> dict[str, Any]:
        try:
            found = tomllib.loads(text)
        except tomllib.TOMLDecodeError:
            self._lines = TomlLines(text)
            named = [line for path, line in self._lines.places if path == ("site",)]
            rows = text.split("\n")
            if len(named) != 2 or not rows[named[1] - 1].lstrip().startswith("["):
                raise
            # Both forms of the site: the rest can be read without the first.
            rows[named[0] - 1] = ""
            found = tomllib.loads("\n".join(rows))
            both = f"'site' is a key (line {named[0]}) and a table as well: keep one of them"
            self.faults.append((named[1], both))
        else:
            self._lines = TomlLines(text)
        return found

    def _fault(self, reason: str, *path: str | int) -> None:
        self.faults.append((self._lines.of(*path), reason))

    def _take(self, key: str, value: Any, reason: str, *path: str | int) -> None:
        """Take a setting unless there is something wrong with it."""
        if reason:
            self._fault(reason, *path)
        else:
            self.settings[key] = value

    def _take_site(self, table: dict[str, Any]) -> None:
        for key in table:
            if key not in _OF_SITE:
                self._fault(_unknown(key, _OF_SITE, "[site]"), "site", key)
        if "name" in table:
            reason = _kind_fault("name", table["name"], str)
            self._take("site", table["name"], reason, "site", "name")
        else:
            self._fault("'name' of [site] is missing", "site")
        if "fence_after" in table:
            fence_ns, reason = _span(table["fence_after"])
            self._take("fence_after", fence_ns, reason, "site", "fence_after")

    def _check(self, merged: Mapping[str, Any], ours: Collection[str]) -> None:
        """Check the values of ``ours``, which the file gives and no option."""
        for key, reason in (*_value_faults(merged), *_address_faults(merged, ours)):
            if key in ours:
                # A table of the site has its name in a line of its own.
                self._fault(reason, key, *(["name"] if key == "site" else []))
        try:
            if "mesh" in ours:
                check_mesh(merged["mesh"])
        except InvalidName as error:
            self._fault(str(error), "mesh")
        try:
            if "data" in ours:
                data_directory(merged["data"], "")
        except ConfigError as error:
            self._fault(str(error), "data")

    # -- links ---------------------------------------------------------------------------------

    def _links(self, tables: object, merged: Mapping[str, Any]) -> tuple[LinkWish, ...]:
        if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
            self._fault("'link' must be tables, each with the header [[link]]", "link")
            return ()
        if tables and merged["site"] is None:
            self._fault(
                "[[link]] is for nodes of a site: give its name in [site] as well", "link", 0
            )
        known: dict[str, int] = {}  # sites and endpoints, and the line of the link with each
        return tuple([self._link(i, table, merged, known) for i, table in enumerate(tables)])

    def _link(
        self, index: int, table: dict[str, Any], merged: Mapping[str, Any], known: dict[str, int]
    ) -> LinkWish:
        """The link of a table; of no meaning if that has faults."""
        good: dict[str, Any] = {key: kind() for key, kind in _OF_LINK.items()}
        for key, value in table.items():
            if key not in _OF_LINK:
                self._fault(_unknown(key, tuple(_OF_LINK), "[[link]]"), "link", index, key)
                continue
            reasons = [_kind_fault(key, value, _OF_LINK[key])]
            if reasons == [""]:
                good[key] = value
                match key:
                    case "to":
                        line = self._lines.of("link", index, "to")
                        reasons = [_target_fault(value, merged["site"], known.get(value, 0))]
                        known.setdefault(value, line)
                    case "endpoints":
                        reasons = list(_endpoint_faults(value, merged, known))
                        line = self._lines.of("link", index, "endpoints")
                        known |= dict.fromkeys(value, line)
                    case "bytes_per_second":
                        good[key], reason = _budget(value)
                        reasons = [reason]
                    case "compression":
                        reasons = [_compression_fault(value)]
                    case "since":
                        reasons = [_since_fault(value)]
                    case "retention" | "retention_bytes":
                        good[key], reason = _bound(key, value)
                        reasons = [reason]
                    case _:
                        reasons = list(_pattern_faults(key, value))
            for reason in filter(None, reasons):
                self._fault(reason, "link", index, key)
        if "priority" in table and good["topics"] == table.get("topics"):
            for reason in _priority_faults(good):
                self._fault(reason, "link", index, "priority")
        for key in _NEEDED_OF_LINK:
            if key not in table:
                self._fault(f"'{key}' of [[link]] is missing", "link", index)
        taken: dict[str, Any] = {
            key: tuple(good[key]) if kind is list else good[key] for key, kind in _OF_LINK.items()
        }
        taken["bytes_per_second"] = taken["bytes_per_second"] or 0
        taken["compression"] = taken["compression"] or "none"
        since = taken.pop("since")
        since_ns, age_ns = (0, 0) if _since_fault(since) else _since(since)
        bounds = taken.pop("retention"), taken.pop("retention_bytes")
        if "retention" in table or "retention_bytes" in table:
            taken["retention"] = bounds[0] or 0, bounds[1] or 0
        return LinkWish(**taken, since_ns=since_ns, since_age_ns=age_ns)


def _unknown(key: str, known: tuple[str, ...], table: str = "") -> str:
    """What to say of a key that there is not, at the top or in ``table``."""
    close = difflib.get_close_matches(key, known, n=1)
    if key == "fence_after":
        hint = ": it goes into [site]"
    elif table and key in _KNOWN:
        hint = ": it goes to the top, before any [table]"
    elif close:
        hint = f", did you mean '{close[0]}'?"
    else:
        hint = f" (known: {', '.join(known)})"
    return f"unknown key '{key}'{f' in {table}' if table else ''}{hint}"


def _target_fault(to: str, site: str | None, line: int) -> str:
    if not _NAME.match(to):
        return _not_a_name("site", to)
    if to == site:
        return f"'to' is {to!r}, the node's own site: a link is to another one"
    return f"there is a link to {to!r} already, in line {line}" if line else ""


def _endpoint_faults(
    endpoints: list[str], merged: Mapping[str, Any], known: Mapping[str, int]
) -> Iterator[str]:
    """Of a link; ``known``: the line of each endpoint of those before."""
    if not 1 <= len(endpoints) <= LINK_ENDPOINTS_MAX:
        yield f"'endpoints' are 1 to {LINK_ENDPOINTS_MAX} addresses, not {len(endpoints)}"
    for endpoint, count in Counter(endpoints).items():
        if not _ENDPOINT.match(endpoint):
            yield f"{endpoint!r} is not an address: write it like tcp://us-gw-1:5758"
        elif endpoint.startswith(_ANYWHERE):
            yield f"{endpoint!r} is where a node may listen: name the host that is to be dialled"
        elif endpoint in known:
            yield f"{endpoint!r} is an endpoint of the link in line {known[endpoint]} already"
        elif count > 1:
            yield f"{endpoint!r} is there {count} times"
        else:
            yield _address_fault(endpoint, merged, bind=False)


def _budget(text: str) -> tuple[int, str]:
    """Bytes per second of ``text``, and what is wrong with it; empty: nothing."""
    from meshmq.client.admin import parse_size  # most commands need no client

    try:
        size = parse_size(text)
    except InvalidArgument as error:
        return 0, f"'bytes_per_second': {error}"
    if size < LINK_BUDGET_BYTES_MIN:
        why = "leave it out for as much as there is" if not size else "a link would stand still"
        return 0, f"'bytes_per_second' is 1kB at least, not {text!r}: {why}"
    return size, ""


def _bound(key: str, text: str) -> tuple[int, str]:
    """How long, ns, or how much is kept by ``text``, and what is wrong with it; empty: nothing."""
    from meshmq.client.admin import parse_duration, parse_size  # most files have none

    try:
        return (parse_duration(text) if key == "retention" else parse_size(text)), ""
    except InvalidArgument as error:
        return 0, f"'{key}': {error}"


def _compression_fault(value: str) -> str:
    return "" if value in COMPRESSIONS else f"'compression' is 'none' or 'zstd', not {value!r}"


def _pattern_faults(key: str, patterns: list[str]) -> Iterator[str]:
    most = LINK_PRIORITIES_MAX if key == "priority" else LINK_PATTERNS_MAX
    if len(patterns) > most:
        yield f"'{key}' are {most} patterns at most, not {len(patterns)}"
    for pattern in patterns:
        yield _pattern_fault(key, pattern)


def _priority_faults(good: Mapping[str, Any]) -> Iterator[str]:
    wish = tuple(good["topics"]), tuple(good["exclude"])
    for pattern in good["priority"]:
        if disjoint(wish, ((pattern,), ())):
            yield (
                f"'priority': {pattern!r} covers no topic that the link pulls: 'topics' and "
                f"'exclude' say which those are"
            )


def _since(text: str) -> tuple[int, int]:
    """From which time on, unix ns, or how long before a mirror begins; ValueError for neither."""
    from meshmq.client.admin import parse_duration  # most files have none

    if not text:
        return 0, 0
    try:
        return 0, parse_duration(text)
    except InvalidArgument:
        # A time without a zone is this machine's, as a user would read it off the wall.
        time = datetime.fromisoformat(text).astimezone()
    return max(1, int(time.timestamp()) * 10**9 + time.microsecond * 1000), 0


def _since_fault(text: str) -> str:
    try:
        since_ns, age_ns = _since(text)
        if not (since_ns or age_ns) and text:
            return f"'since' {text!r} is no time at all: leave it out to mirror all there is"
        if since_ns > time.time_ns():
            return (
                f"'since' {text!r} has not come yet by this machine's clock: a mirror begins with "
                f"what was stored then"
            )
    except (ValueError, OverflowError):
        return (
            f"'since' {text!r} is neither a time nor an age: write it like 2026-11-01T00:00:00Z, "
            f"or like 7d, 12h or 30m"
        )
    return ""


def _pattern_fault(key: str, pattern: str) -> str:
    try:
        check_pattern(pattern)
    except InvalidName as error:
        return f"'{key}': {error}"
    if pattern.startswith("$"):
        return f"'{key}': pattern {pattern!r}: names that begin with '$' are the mesh's own"
    return ""
