"""``connect`` without an address: the usual one, and what mDNS finds, whichever answers first."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from meshmq.client.connection import Connection
from meshmq.errors import NodeUnreachable
from meshmq.shell.greeting import is_open

if TYPE_CHECKING:
    from meshmq.shell.search import Search

SEEK_S = 2.0  # mDNS needs up to 1.2 s where a node has just said what it is
HEAD_START_S = 0.1  # a node at the usual address answers in a tenth of that: no need to look around
_LOOK_S = 0.02


Told = Callable[[str, str], None]


class Seeking:
    """Tries the usual address, and mDNS if that does not answer at once.

    ``steps`` says for how long to wait for ``connection`` each time; afterwards ``connection`` is
    the one to take, greeted or not. What becomes of those that are not taken is not told.

    Args:
        make: makes a connection to an address, not started, with what it is to call.
        url: the usual address.
        mesh, insecure, timeout: as in ``connect``.
        on_state: what the connection that is taken calls.
    """

    def __init__(
        self,
        make: Callable[[str, Told | None], Connection],
        url: str,
        mesh: str,
        insecure: bool,
        timeout: float,
        on_state: Told | None,
    ) -> None:
        self._make = make
        self._url = url
        self._mesh = mesh
        self._insecure = insecure
        self._timeout = timeout
        self._on_state = on_state
        self._is_seeking = True
        self._mdns_failed = False
        self._search: Search | None = None
        self.connection = self._try(url)

    @property
    def is_done(self) -> bool:
        """Whether a node has let us in."""
        return self.connection.is_greeted and self.connection.dead is None

    def steps(self) -> Iterator[float]:
        """Seconds to wait until ``connection`` is greeted, once it is dead all of them."""
        deadline = time.monotonic() + min(self._timeout, SEEK_S)
        self.connection.start()
        if is_open(self._url):
            yield min(self._timeout, HEAD_START_S)
        if not self.is_done:
            from meshmq.shell.search import Search  # 15 ms that few need

            self._search = Search(self._mesh, self._insecure)
            self._search.start()
        while not self.is_done and (left := deadline - time.monotonic()) > 0:
            assert self._search is not None
            found = self._search.first(0.0)
            if found:
                self.connection.close(0.0)
                self.connection = self._try(found)
                self.connection.start()
                yield self._timeout
                break
            yield min(left, _LOOK_S)
        if self._search is not None:
            self._mdns_failed = self._search.mdns.state == "failed"
        self.close()

    def close(self) -> None:
        """Look no longer."""
        self._is_seeking = False
        if self._search is not None:
            self._search.close()

    def check(self) -> None:
        """Raise NodeUnreachable, with what can be done, unless somebody answered."""
        if self.connection.is_greeted:
            return
        self.connection.close(1.0)
        if self.connection.client.refused is not None:
            raise self.connection.client.refused
        if self.connection.url != self._url:
            raise NodeUnreachable(
                f"the node at {self.connection.url}, which mDNS found, answers no more: try again"
            )
        how = f"mDNS finds none of mesh {self._mesh!r}"
        if self._mdns_failed:
            how = "mDNS does not work here"
        raise NodeUnreachable(
            f"no node answers at {self._url}, and {how}: start one with `meshmq node`, say where "
            f"it is with --url (connect(url=...), MESHMQ_URL), or ask `meshmq doctor`"
        )

    def _try(self, url: str) -> Connection:
        on_state = self._on_state

        def told(state: str, reason: str) -> None:
            is_taken = self.connection is connection
            if on_state is not None and is_taken and not (self._is_seeking and state == "closed"):
                on_state(state, reason)

        connection = self._make(url, None if on_state is None else told)
        return connection
