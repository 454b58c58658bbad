"""A request whose reply is waited for later: many of them under way from one thread."""

from __future__ import annotations

from meshmq.client.channel import Channel
from meshmq.client.requests import Question, Reply, result_of
from meshmq.errors import DeadlineExceeded, ForkedError


class PendingReply:
    """What ``request_nowait`` returns: a reply that may not be there yet.

    The request goes on if nobody asks for its reply. All of it may be used from any thread.
    """

    __slots__ = ("_call", "_channel")

    def __init__(self, call: Question, channel: Channel) -> None:
        self._call = call
        self._channel = channel

    def done(self) -> bool:
        """Whether ``result`` returns or raises at once."""
        return self._call.is_over or self._channel.dead is not None

    def result(self, timeout: float | None = None) -> Reply:
        """Wait for the reply and return it; raises what ``request`` raises. It may be called again.

        Args:
            timeout: seconds to wait here, None: until the request's own timeout is over.

        Raises:
            DeadlineExceeded: also if it is not there within ``timeout``: ``done`` tells whether the
                request is over.
        """
        call, channel = self._call, self._channel
        if not call.is_over:
            channel.wait_until(self.done, timeout)
            if channel.dead is not None:
                if isinstance(channel.dead, ForkedError):
                    raise channel.dead  # its reply is for the parent
                channel.cancel(call)
            elif not call.is_over:
                raise DeadlineExceeded(
                    f"{call.service!r} did not answer within {timeout} s; the request goes on"
                )
        return result_of(call)

    def cancel(self) -> None:
        """Nobody waits for it any more: the service is told to stop, and ``result`` raises
        LinkLost, unless the reply has come."""
        self._channel.cancel(self._call)

    def __repr__(self) -> str:
        state = "done" if self.done() else "under way"
        return f"PendingReply({self._call.service!r}, {state})"
