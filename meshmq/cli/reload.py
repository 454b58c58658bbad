"""SIGHUP: a node reads its file of settings again, and takes over what may change while it runs."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from queue import SimpleQueue
from types import FrameType
from typing import Any, NamedTuple, Protocol

from meshmq.cli.boundary import ConfigFaults
from meshmq.cli.output import note
from meshmq.core.link_wish import LinkWish
from meshmq.errors import MeshError

_MEANS_OF_LINKS = ("site", "mesh", "insecure")
"""Links were checked by these: with others they would be links of another node."""


class Reloadable(Protocol):
    """What of a NodeRunner is needed here."""

    def set_links(self, links: tuple[LinkWish, ...]) -> None: ...


class Source(NamedTuple):
    """Where settings are read again.

    Attributes:
        path: the file, to name it.
        read: all settings as they would be if the node started now; raises MeshError.
    """

    path: Path
    read: Callable[[], dict[str, Any]]


class Reload:
    """Reads again after each SIGHUP, from now on; what came before ``attach`` is done then.

    Args:
        settings: those that the node runs with.
    """

    def __init__(self, source: Source, settings: Mapping[str, Any]) -> None:
        self._source = source
        self._settings = dict(settings)
        # A signal handler may interrupt anything, a put into this queue as well: that is allowed.
        self._asked: SimpleQueue[None] = SimpleQueue()
        signal.signal(signal.SIGHUP, self._on_signal)

    def attach(self, runner: Reloadable) -> None:
        """Change ``runner``, from a thread: the node is not to wait for a slow disk."""
        threading.Thread(
            target=self._run, args=(runner,), name="meshmq-reload", daemon=True
        ).start()

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._asked.put(None)

    def _run(self, runner: Reloadable) -> None:
        while True:
            self._asked.get()
            with contextlib.suppress(OSError):  # nobody reads our notes any more
                self.read_again(runner)

    def read_again(self, runner: Reloadable) -> None:
        """Read the file, change what may be changed, and note what came of it."""
        path = self._source.path
        try:
            found = self._source.read()
        except MeshError as error:
            for fault in error.faults if isinstance(error, ConfigFaults) else [str(error)]:
                note(fault)
            note(f"{path} has faults: the node goes on with the links that it had")
            return
        others = [k for k, v in found.items() if k != "links" and v != self._settings[k]]
        before, links = self._settings["links"], found["links"]
        told = []
        if links != before:
            if set(_MEANS_OF_LINKS) & set(others):
                others.append("links")
            else:
                runner.set_links(links)
                self._settings["links"] = links
                told.append(what_changed(before, links))
        if others:
            told.append(f"{', '.join(others)} changed, which needs a restart")
        note(f"{path} read again: {'; '.join(told) or 'nothing changed'}")


def what_changed(before: tuple[LinkWish, ...], after: tuple[LinkWish, ...]) -> str:
    """In words: which links are new, gone or other ones."""
    old, new = {wish.to: wish for wish in before}, {wish.to: wish for wish in after}
    parts = [
        (new.keys() - old.keys(), "new"),
        (old.keys() - new.keys(), "gone"),
        ({to for to in old.keys() & new.keys() if old[to] != new[to]}, "changed"),
    ]
    told = [f"links to {', '.join(sorted(sites))} are {how}" for sites, how in parts if sites]
    return ", ".join(told) or "the order of links is changed"
