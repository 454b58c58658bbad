"""``meshmq node``: run a node until it is told to stop."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType
from typing import TYPE_CHECKING, Any

import typer

from meshmq.cli.config import settings_of
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
from meshmq.cli.reload import Reload, Source
from meshmq.cli.takeover import forget, takeover

if TYPE_CHECKING:
    from meshmq.shell.runner import NodeRunner

STOP_GRACE_S = 10.0  # service managers wait longer before they kill (systemd: 90 s, docker: 10 s)


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
    options = {key: value for key, value in given.items() if value is not None}
    settings = settings_of(config, options)
    if check:
        check_node(settings)
    else:
        source = Source(config, lambda: settings_of(config, options)) if config else None
        run_node(settings, source)


def run_node(settings: dict[str, Any], source: Source | None = None) -> None:
    """Open the log, listen, say so, and run until a signal; returns after a clean stop.

    On SIGHUP settings are read again from ``source``, if there is any.
    """
    stop = _StopSignals()  # first of all: a signal during a long start is not lost
    reload = None if source is None else Reload(source, settings)
    from meshmq.shell.runner import NodeConfig, NodeRunner
    from meshmq.shell.site import SiteConfig, listen_beside

    given = dict(settings)
    name, listen, peers, copies, links, fence_ns = (
        given.pop(key)
        for key in ("site", "listen_nodes", "peers", "copies", "links", "fence_after")
    )
    if name is not None:
        beside = listen or listen_beside(settings["listen"])
        given["site"] = SiteConfig(name, beside, tuple(peers), copies, links, fence_ns)
    runner = NodeRunner(NodeConfig(**given, on_note=note))
    where = "" if runner.site_url is None else f", for nodes of site {name} at {runner.site_url}"
    say(f"node {settings['name']} ready at {runner.url}{where}, log in {settings['data']}")
    say(f"try: meshmq sub 'hello.>'{_how_to_reach(settings, runner.url)}")
    stop.attach(runner)
    if reload is not None:
        reload.attach(runner)
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
        say(f"the settings are right; data {settings['data']} is not there yet: the node makes it")


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
