"""Wakes tasks of an event loop for what the I/O thread brings about."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from meshmq.client.channel import Channel
from meshmq.client.values import deadline_of
from meshmq.core.lanes import Batch
from meshmq.errors import MeshError

ROOM = "room"
"""To wait for: the buffer has room again."""


class Bell:
    """A Listener. Tasks wait for an object; a turn that has news of it wakes them.

    A task first says what it waits for and then looks, the I/O thread first changes it and then
    looks who waits: so no news is missed. However much a turn brings, it wakes the loop once.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, channel: Channel) -> None:
        self._loop = loop
        self._channel = channel
        self._waiting: dict[object, list[asyncio.Future[None]]] = {}
        self._noted: deque[object] = deque()
        self._is_ringing = False

    # -- the I/O thread -----------------------------------------------------------------------

    def note(self, what: object) -> None:
        """See Listener."""
        if what in self._waiting or what is self._channel:
            self._noted.append(what)
        if ROOM in self._waiting and isinstance(what, Batch):
            self._noted.append(ROOM)

    def tell(self) -> None:
        """See Listener."""
        if self._noted and not self._is_ringing:
            self._is_ringing = True
            try:
                self._loop.call_soon_threadsafe(self._ring)
            except RuntimeError:
                pass  # the loop was closed before the connection

    # -- the event loop -----------------------------------------------------------------------

    @property
    def has_ended(self) -> bool:
        """Whether its loop was closed: nobody will be woken by it any more."""
        return self._loop.is_closed()

    def check_loop(self) -> None:
        """Raise unless it is called in the loop it was made for; a few dozen ns."""
        if asyncio.get_running_loop() is self._loop:
            return
        if self.has_ended:
            raise MeshError(
                "this mesh was connected in an event loop that has ended: call "
                "meshmq.aio.connect() again, in each asyncio.run()"
            )
        raise MeshError(
            "this mesh belongs to another event loop than the one that runs here: connect in "
            "this one too, or hand the call over with asyncio.run_coroutine_threadsafe()"
        )

    def _ring(self) -> None:
        self._is_ringing = False
        while self._noted:
            what = self._noted.popleft()
            if what is self._channel:
                # Connected, lost or closed: whoever waits must look.
                woken = [future for futures in self._waiting.values() for future in futures]
                self._waiting.clear()
            else:
                woken = self._waiting.pop(what, [])
            for future in woken:
                if not future.done():
                    future.set_result(None)

    async def wait_until(
        self, what: object, is_true: Callable[[], bool], timeout: float | None
    ) -> bool:
        """Wait until news of ``what`` makes ``is_true``, for ``timeout`` seconds or without end.

        Raises MeshError in another loop than its own, InvalidArgument for what is no timeout.
        """
        self.check_loop()
        if is_true():
            return True
        if timeout is None:
            while not await self._once(what, is_true):
                pass
            return True
        deadline = deadline_of(self._loop.time(), timeout)
        try:
            async with asyncio.timeout_at(deadline):
                while not await self._once(what, is_true):
                    pass
        except TimeoutError:
            return is_true()
        return True

    async def _once(self, what: object, is_true: Callable[[], bool]) -> bool:
        future = self._loop.create_future()
        self._waiting.setdefault(what, []).append(future)
        try:
            if not is_true():
                await future
        finally:
            waiting = self._waiting.get(what)
            if waiting is not None and future in waiting:
                waiting.remove(future)
                if not waiting:
                    del self._waiting[what]
        return is_true()
