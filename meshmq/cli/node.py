"""``meshmq node``: run a node until it is told to stop."""

from __future__ import annotations

import difflib
import os
import re
import signal
import socket
import threading
import tomllib
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import typer

from meshmq.cli.node_drain import drain
from meshmq.cli.node_options import (
    DEFAULT_URL,
    Check,
    Config,
    Copies,
    Data,
    Insecure,
    Listen,
    ListenNodes,
    Mesh,
    Name,
    NoMdns,
    Peer,
    Site,
)
from meshmq.cli.output import note, say
from meshmq.cli.takeover import forget, takeover
from meshmq.errors import ConfigError
from meshmq.limits import COPIES_MAX

if TYPE_CHECKING:
    from meshmq.shell.runner import NodeRunner

STOP_GRACE_S = 10.0  # service managers wait longer before they kill (systemd: 90 s, docker: 10 s)
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
_KINDS = {str: "a string", int: "a whole number", bool: "true or false", list: "a list of strings"}
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}\Z")


app = typer.Typer(no_args_is_help=False)
app.command("drain")(drain)
app.command("takeover")(takeover)
app.command("forget")(forget)


@app.callback(invoke_without_command=True)
def node(
    context: typer.Context,
    name: Name = None,
    mesh: Mesh = None,
    listen: Listen = None,
    data: Data = None,
    insecure: Insecure = False,
    no_mdns: NoMdns = False,
    site: Site = None,
    listen_nodes: ListenNodes = None,
    peer: Peer = None,
    copies: Copies = None,
    check: Check = False,
    config: Config = None,
) -> None:
    """Run a node: it keeps durable topics, confirms, replays and delivers.

    It runs in the foreground until Ctrl-C or SIGTERM, which end it cleanly. The commands below are
    for nodes that run.
    """
    if context.invoked_subcommand is not None:
        return
    settings = {key: default for key, (_, default) in _SETTINGS.items()}
    if config is not None:
        settings.update(read_config(config))
    given = {
        "name": name,
        "mesh": mesh,
        "listen": listen,
        "data": None if data is None else str(data),
        "insecure": insecure or None,
        "mdns": False if no_mdns else None,
        "site": site,
        "listen_nodes": listen_nodes,
        "peers": peer or None,
        "copies": copies,
    }
    settings.update({key: value for key, value in given.items() if value is not None})
    if settings["name"] is None:
        settings["name"] = default_name(settings["site"])
    if not _NAME.match(settings["name"]):
        raise ConfigError(
            f"node name {settings['name']!r} must be 1 to 64 letters, digits, '-', '_' or '.'"
        )
    if not 1 <= settings["copies"] <= COPIES_MAX:
        raise ConfigError(f"copies is from 1 to {COPIES_MAX}, not {settings['copies']}")
    check_site(settings)
    directory = data_directory(settings["data"], settings["name"])
    if check:
        check_node({**settings, "data": directory})
    else:
        run_node({**settings, "data": directory})


def default_name(site: str | None) -> str:
    """What a node is called that nobody names: in a site as its host, as no other one should be."""
    host = re.sub(r"[^A-Za-z0-9_.-]", "-", socket.gethostname().partition(".")[0])[:64]
    return "node-1" if site is None or not _NAME.match(host) else host


def check_site(settings: dict[str, Any]) -> None:
    """ConfigError for what a node of a site cannot be."""
    if settings["site"] is None:
        for key, option in (("peers", "--peer"), ("listen_nodes", "--listen-nodes")):
            if settings[key]:
                raise ConfigError(f"{option} is for nodes of a site: give --site NAME as well")
        if settings["copies"] > 1:
            raise ConfigError("--copies is for nodes of a site: give --site NAME as well")
    elif not _NAME.match(settings["site"]):
        raise ConfigError(
            f"site name {settings['site']!r} must be 1 to 64 letters, digits, '-', '_' or '.'"
        )


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


def read_config(path: Path) -> dict[str, Any]:
    """The settings in a TOML file; ConfigError names everything that is wrong with it at once."""
    try:
        with path.open("rb") as file:
            found = tomllib.load(file)
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid TOML: {error}") from None
    faults = []
    for key, value in found.items():
        if key not in _SETTINGS:
            close = difflib.get_close_matches(key, _SETTINGS, n=1)
            hint = f", did you mean '{close[0]}'?" if close else ""
            faults.append(f"unknown key '{key}'{hint or f' (known: {chr(44).join(_SETTINGS)})'}")
        elif type(value) is not _SETTINGS[key][0]:
            kind = _SETTINGS[key][0]
            faults.append(f"'{key}' must be {_KINDS[kind]}")
        elif isinstance(value, list) and not all(isinstance(item, str) for item in value):
            faults.append(f"'{key}' must be {_KINDS[list]}")
        elif isinstance(value, str) and "\0" in value:
            faults.append(f"'{key}' has a NUL in it")
    if faults:
        raise ConfigError(f"{path}: {'; '.join(faults)}")
    return found


def run_node(settings: dict[str, Any]) -> None:
    """Open the log, listen, say so, and run until a signal; returns after a clean stop."""
    stop = _StopSignals()  # first of all: a signal during a long start is not lost
    from meshmq.shell.runner import NodeConfig, NodeRunner
    from meshmq.shell.site import SiteConfig, listen_beside

    given = dict(settings)
    name, listen, peers, copies = (
        given.pop(key) for key in ("site", "listen_nodes", "peers", "copies")
    )
    if name is not None:
        beside = listen or listen_beside(settings["listen"])
        given["site"] = SiteConfig(name, beside, tuple(peers), copies)
    runner = NodeRunner(NodeConfig(**given, on_note=note))
    where = "" if runner.site_url is None else f", for nodes of site {name} at {runner.site_url}"
    say(f"node {settings['name']} ready at {runner.url}{where}, log in {settings['data']}")
    say(f"try: meshmq sub 'hello.>'{_how_to_reach(settings, runner.url)}")
    stop.attach(runner)
    runner.run()
    if stop.signal_name:
        note(f"node {settings['name']} stopped ({stop.signal_name})")
    elif runner.is_drained:
        note(f"node {settings['name']} stopped (drained)")


def check_node(settings: dict[str, Any]) -> None:
    """Check what a node needs to start, without starting one."""
    from meshmq.cli.log import verify_log
    from meshmq.shell.sockets import check_url

    for key, addresses in (
        ("listen", [settings["listen"], settings["listen_nodes"]]),
        ("peers", settings["peers"]),
    ):
        for url in [url for url in addresses if url is not None]:
            check_url(
                url, bind=key == "listen", insecure=settings["insecure"], mesh=settings["mesh"]
            )
    if settings["data"].is_dir():
        verify_log(settings["data"], json=False)
    else:
        say(f"{settings['data']} is not there yet: the node makes it")


def _how_to_reach(settings: dict[str, Any], url: str) -> str:
    reach = "" if url == DEFAULT_URL else f" --url {url}"
    if settings["mesh"] != "local":
        reach += f" --mesh {settings['mesh']}"
    if settings["insecure"]:
        reach += " --insecure"
    return reach


class _StopSignals:
    """Turns the first SIGINT or SIGTERM into ``runner.stop()``, and gives that a grace time."""

    def __init__(self) -> None:
        self.signal_name = ""
        self._runner: NodeRunner | None = None
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._on_signal)

    def attach(self, runner: NodeRunner) -> None:
        """Stop ``runner`` on a signal, at once if there was one already."""
        self._runner = runner
        if self.signal_name:
            runner.stop()

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        again = bool(self.signal_name)
        self.signal_name = signal.Signals(number).name
        if again:
            self._give_up("told twice to stop")
        watchdog = threading.Timer(
            STOP_GRACE_S, self._give_up, [f"not stopped within {STOP_GRACE_S:.0f} s"]
        )
        watchdog.daemon = True
        watchdog.start()
        if self._runner is not None:
            self._runner.stop()

    def _give_up(self, why: str) -> None:
        """End the process as a crash would: what is confirmed is synced, so nothing is lost."""
        note(f"{why}: ending at once; everything confirmed is on disk")
        os._exit(1)
