"""One end of a link: handshake, order, loss, liveness. The same machine on both ends.

States: GREETING (the initiator said hello and waits), OPEN, CLOSED. An acceptor starts OPEN.

Rules:
1. The transport may lose, repeat and reorder anything. Frames with a sequence are delivered once
   and in order within a session: numbered, acknowledged, sent again from the first missing one.
2. Either end may go: a link silent for LINK_SILENT_NS is dead; where another link says whether the
   end is there (``be_patient``), for LINK_FULL_SILENT_NS: it may be full. What is unacknowledged
   then is the business of the machines above, which resume by their own numbers in the next one.
3. Credit is granted above (subscriptions, producers), so what waits for an ack is bounded; a peer
   that takes frames and never acknowledges is closed at SESSION_UNACKED_*, a patient one at
   LINK_FULL_UNACKED_BYTES_MAX.

It does not know what bodies mean. Outgoing envelopes gather in ``outbox``; the owner takes them.
"""

from __future__ import annotations

from collections import deque
from enum import Enum

from meshmq import limits
from meshmq.core.rows import header_bytes
from meshmq.frames import (
    WITH_PAYLOAD,
    Body,
    Bye,
    Envelope,
    Gap,
    Hello,
    Nothing,
    Ping,
    Refuse,
    Reply,
    Request,
    Result,
    Welcome,
)


class SessionState(Enum):
    GREETING = "greeting"
    OPEN = "open"
    CLOSED = "closed"


class Session:
    """One session over one link.

    Attributes:
        id: 64-bit number, chosen by the initiator, in every envelope.
        state: see the module's header.
        outbox: envelopes to send, in order.
        closed_code, closed_reason: why, once CLOSED; the code is an error's code or "".
        unacked_bytes: payload bytes of frames that are not acknowledged, with the rows of requests
            and replies.
    """

    __slots__ = (
        "_ack_at",
        "_ack_owed",
        "_acked_at_last",
        "_forgotten_at",
        "_gap_at",
        "_gap_wait_ns",
        "_greeting",
        "_heard_at",
        "_hello_at",
        "_resend_at",
        "_resend_ns",
        "_resent_to",
        "_seen",
        "_sent_at",
        "_silent_ns",
        "_unacked",
        "_unacked_bytes_max",
        "_waits_at",
        "closed_code",
        "closed_reason",
        "id",
        "outbox",
        "received",
        "sent",
        "state",
        "unacked_bytes",
    )

    def __init__(self, number: int, greeting: Hello | Welcome, now_ns: int) -> None:
        self.id = number
        self.outbox: list[Envelope] = []
        self.sent = 0
        self.received = 0
        self.closed_code = ""
        self.closed_reason = ""
        self._greeting = greeting
        self._unacked: deque[tuple[int, Body, int]] = deque()
        self.unacked_bytes = 0
        self._unacked_bytes_max = limits.SESSION_UNACKED_BYTES_MAX
        self._ack_owed = 0
        self._acked_at_last = 0
        self._forgotten_at = 0
        self._ack_at = 0
        self._resend_at = 0
        self._resend_ns = limits.RESEND_NS
        self._silent_ns = limits.LINK_SILENT_NS
        self._resent_to = 0
        self._waits_at = 0
        self._gap_at = 0
        self._gap_wait_ns = 0
        self._seen = 0
        self._heard_at = now_ns
        self._sent_at = now_ns
        self._hello_at = now_ns + limits.HELLO_RETRY_NS
        initiator = isinstance(greeting, Hello)
        self.state = SessionState.GREETING if initiator else SessionState.OPEN
        self._send_unnumbered(greeting, now_ns)

    @property
    def heard_ns(self) -> int:
        """When the newest frame came, or the session began."""
        return self._heard_at

    @property
    def unacked_count(self) -> int:
        """Frames sent and not yet acknowledged."""
        return len(self._unacked)

    @property
    def acked(self) -> int:
        """Every frame sent up to this one has arrived; also once CLOSED."""
        if self.state is SessionState.CLOSED:
            return self._acked_at_last
        return self.sent - len(self._unacked)

    @property
    def waits_since_ns(self) -> int | None:
        """Since when nothing of what was sent is acknowledged; None: nothing is under way."""
        return self._waits_at if self._unacked else None

    def send(self, body: Body, now_ns: int) -> None:
        """Send ``body`` in order and once. The session must be OPEN; nothing goes when CLOSED."""
        if self.state is SessionState.CLOSED:
            return
        assert self.state is SessionState.OPEN, "a session sends after its handshake"
        self.sent += 1
        size = 0
        if isinstance(body, (Request, Reply)):  # of many small ones the rows weigh most
            size = len(body.payload) + header_bytes(body)
        elif isinstance(body, WITH_PAYLOAD):
            size = len(body.payload)
        elif isinstance(body, Result):
            size = len(body.body)
        if not self._unacked:
            self._resend_at = now_ns + self._resend_ns
            self._waits_at = now_ns
        self._unacked.append((self.sent, body, size))
        self.unacked_bytes += size
        if (
            len(self._unacked) > limits.SESSION_UNACKED_FRAMES_MAX
            or self.unacked_bytes > self._unacked_bytes_max
        ):
            self._close("busy", "the peer takes frames and does not acknowledge them")
            return
        self._put(self.sent, body, now_ns)

    def receive(self, envelope: Envelope, now_ns: int) -> Body | None:
        """Take one envelope of this session; return its body if it is next in order, else None.

        Welcome (once) and Refuse are returned too, for the owner to read.
        """
        if self.state is SessionState.CLOSED or envelope.session != self.id:
            return None
        self._heard_at = now_ns
        body = envelope.body
        if self.state is SessionState.GREETING:
            if isinstance(body, Welcome):
                self.state = SessionState.OPEN
                return body
            if isinstance(body, Refuse):
                self._close(body.code, body.message)
                return body
            return None
        self._on_ack(envelope.ack, now_ns)
        if self._is_forgotten(envelope.ack, now_ns):
            self._close("link-lost", "the peer has forgotten the session")
            return None
        if envelope.sequence:
            return self._on_numbered(envelope.sequence, body, now_ns)
        return self._on_unnumbered(body, now_ns)

    def _on_numbered(self, sequence: int, body: Body, now_ns: int) -> Body | None:
        expected = self.received + 1
        if sequence == expected:
            self.received = sequence
            self._gap_wait_ns = 0
            self._ack_owed += 1
            if self._ack_owed == 1:
                self._ack_at = now_ns + limits.ACK_DELAY_NS
            elif self._ack_owed >= limits.ACK_FRAMES_MAX:
                self._send_unnumbered(Nothing(), now_ns)
            return body
        if sequence < expected:
            # A repeat: our ack was lost, so say it again.
            self._send_unnumbered(Nothing(), now_ns)
        else:
            self._seen = max(self._seen, sequence)
            if now_ns >= self._gap_at:
                self._ask_again(now_ns)
        return None

    def _ask_again(self, now_ns: int) -> None:
        """Say that something is missing, ever more seldom until some of it comes: it may be on its
        way, and what came behind it is not kept."""
        wait_ns = self._gap_wait_ns = min(
            max(2 * self._gap_wait_ns, limits.GAP_INTERVAL_NS), limits.RESEND_NS
        )
        self._gap_at = now_ns + wait_ns
        self._send_unnumbered(Gap(), now_ns)

    def _on_unnumbered(self, body: Body, now_ns: int) -> Body | None:
        match body:
            case Gap():
                self._resend(now_ns)
            case Ping():
                self._send_unnumbered(Nothing(), now_ns)
            case Hello() if isinstance(self._greeting, Welcome):
                # Our welcome was lost, or is on its way while the hello was repeated.
                self._send_unnumbered(self._greeting, now_ns)
            case Bye():
                self._close("", "the peer said goodbye")
            case Refuse(code, message):
                self._close(code, message)
                return body
            case _:
                pass
        return None

    def _is_forgotten(self, ack: int, now_ns: int) -> bool:
        """Whether the peer acknowledges less than it did, for longer than frames are late.

        A hello that came twice can make a peer that had let the session go begin it anew. It then
        waits for frames that are acknowledged and gone, and pings keep both ends alive.
        """
        if ack >= self.sent - len(self._unacked):
            self._forgotten_at = 0
        elif not self._forgotten_at:
            self._forgotten_at = now_ns
        elif now_ns - self._forgotten_at > limits.RESEND_NS:
            return True
        return False

    def _on_ack(self, ack: int, now_ns: int) -> None:
        unacked = self._unacked
        if not unacked or unacked[0][0] > ack:
            return
        while unacked and unacked[0][0] <= ack:
            self.unacked_bytes -= unacked.popleft()[2]
        self._waits_at = now_ns
        self._resend_at = now_ns + self._resend_ns
        if 0 < self._resent_to <= ack:
            # What was sent again has come: what is behind that may be lost as well.
            self._resent_to = 0
            if unacked:
                self._resend(now_ns)

    def ping(self, now_ns: int) -> None:
        """Make the transport try the other end, now."""
        if self.state is SessionState.OPEN:
            self._send_unnumbered(Ping(), now_ns)

    def be_patient(self) -> None:
        """Another link says whether the end is there: this one may be so thin that one frame takes
        longer than pings are late, and what is sent again would only be in its way; or so long
        that much is on it."""
        self._resend_ns = limits.LINK_FULL_RESEND_NS
        self._silent_ns = limits.LINK_FULL_SILENT_NS
        self._unacked_bytes_max = limits.LINK_FULL_UNACKED_BYTES_MAX

    def acknowledge(self, now_ns: int) -> None:
        """Acknowledge what came, now: somebody counts on it to send more."""
        if self._ack_owed and self.state is SessionState.OPEN:
            self._send_unnumbered(Nothing(), now_ns)

    def tick(self, now_ns: int) -> None:
        """Do what is due: hello again, ack, send again, ping, give up."""
        if self.state is SessionState.CLOSED:
            return
        if now_ns - self._heard_at >= self._silent_ns:
            seconds = self._silent_ns // limits.SECOND
            self._close("link-lost", f"nothing was heard for {seconds} s")
            return
        if self.state is SessionState.GREETING:
            if now_ns >= self._hello_at:
                self._hello_at = now_ns + limits.HELLO_RETRY_NS
                self._send_unnumbered(self._greeting, now_ns)
            return
        if self._unacked and now_ns >= self._resend_at:
            self._resend(now_ns)
        if self._seen > self.received and now_ns >= self._gap_at:
            self._ask_again(now_ns)
        if self._ack_owed and now_ns >= self._ack_at:
            self._send_unnumbered(Nothing(), now_ns)
        if now_ns - self._sent_at >= limits.PING_INTERVAL_NS:
            self._send_unnumbered(Ping(), now_ns)

    def next_deadline_ns(self) -> int:
        """When ``tick`` has something to do next, if nothing else happens."""
        due = self._heard_at + self._silent_ns
        if self.state is SessionState.GREETING:
            return min(due, self._hello_at)
        due = min(due, self._sent_at + limits.PING_INTERVAL_NS)
        if self._ack_owed:
            due = min(due, self._ack_at)
        if self._unacked:
            due = min(due, self._resend_at)
        if self._seen > self.received:
            due = min(due, self._gap_at)
        return due

    def say_goodbye(self, now_ns: int, refusal: Refuse | None = None) -> None:
        """Close in words: a Refuse with its reason, or a Bye."""
        if self.state is not SessionState.CLOSED:
            self._send_unnumbered(refusal or Bye(), now_ns)
            self._close(refusal.code if refusal else "", "closed here")

    def _close(self, code: str, reason: str) -> None:
        if self.state is not SessionState.CLOSED:
            self._acked_at_last = self.acked
        self.state = SessionState.CLOSED
        self.closed_code = code
        self.closed_reason = reason
        self._unacked.clear()
        self.unacked_bytes = 0

    def _resend(self, now_ns: int) -> None:
        self._resend_at = now_ns + self._resend_ns
        self._resent_to = 0
        for i, (sequence, body, _) in enumerate(self._unacked):
            if i >= limits.RESEND_FRAMES_MAX:
                self._resent_to = sequence - 1
                break
            self._put(sequence, body, now_ns)

    def _send_unnumbered(self, body: Body, now_ns: int) -> None:
        self._put(0, body, now_ns)

    def _put(self, sequence: int, body: Body, now_ns: int) -> None:
        # Every envelope carries the newest ack, so a delayed ack is paid by whatever leaves.
        self._ack_owed = 0
        self._sent_at = now_ns
        self.outbox.append(Envelope(self.id, sequence, self.received, body))
