"""``bytes_per_second`` of a link: what comes over it, at the node that pulls.

Data: of each log the room (credit) that its sender is to get and has not yet; tokens, one for each
byte that may come, LINK_BURST_NS of them at most.

Rules:
1. A sender gets room back as tokens come in, not as its records are stored. So what may come is
   bounded by the budget, whatever the line could carry, and nothing waits on the line for it.
2. Room is counted as records are stored, tokens as they cross the link, with what goes beside
   them: the difference, by which compression counts, is made good when they come.
3. A new sender begins with the room that its round trip and LINK_SLACK_NS ask for. That much of
   each log may come at once after a rest.
4. The budget is the whole site's: a node has the part that falls to the logs that it pulls, of all
   that are pulled over the link.
"""

from __future__ import annotations

from meshmq import limits


class LinkBudget:
    """See the module's header.

    Args:
        rate: bytes per second.

    Attributes:
        rate: may be set, together with the logs that this node pulls.
    """

    def __init__(self, rate: int, now_ns: int) -> None:
        self.rate = rate
        self._tokens = 0
        self._since_ns = now_ns
        self._held: dict[bytes, int] = {}  # by log: room that is not given yet
        self._share = 1.0  # bytes on the line for each that is stored

    def first(self, log: bytes, round_trip_ns: int) -> int:
        """Room for a sender that begins; rule 3."""
        self._held.pop(log, None)
        size = self.rate * (round_trip_ns + limits.LINK_SLACK_NS) // limits.SECOND
        return min(max(size, limits.LINK_LEAST_BYTES), limits.LINK_CREDIT_BYTES)

    def hold(self, log: bytes, size: int) -> None:
        """So much of what came is stored: its sender is to have the room again."""
        self._held[log] = self._held.get(log, 0) + size

    def drop(self, log: bytes) -> None:
        """Nobody sends it any more."""
        self._held.pop(log, None)

    def on_came(self, size: int, stored: int) -> None:
        """``size`` bytes came over the link, that are ``stored`` bytes then; rule 2."""
        self._tokens += int(stored * self._share) - size
        if stored:
            self._share += (size / stored - self._share) / 16

    def _fill(self, now_ns: int) -> None:
        most = max(1, self.rate * limits.LINK_BURST_NS // limits.SECOND)
        came = (now_ns - self._since_ns) * self.rate // limits.SECOND
        if came > 0:
            self._tokens = min(self._tokens + came, most)
            self._since_ns = now_ns

    @property
    def _slice(self) -> int:
        """Tokens that are worth a frame, not more than there will be."""
        held = int(sum(self._held.values()) * self._share) or 1
        most = max(1, self.rate * limits.LINK_BURST_NS // (2 * limits.SECOND))
        return min(held, most)

    def grant(self, now_ns: int) -> list[tuple[bytes, int]]:
        """Logs whose senders get room now, and how much: who waited longest first."""
        self._fill(now_ns)
        found = []
        if not self._held or self._tokens < self._slice:
            return []
        while self._held and self._tokens > 0:
            log, held = next(iter(self._held.items()))
            size = min(held, max(1, int(self._tokens / max(self._share, 0.001))))
            del self._held[log]
            if held > size:
                self._held[log] = held - size  # it is the last one now
            self._tokens -= max(1, int(size * self._share))
            found.append((log, size))
        return found

    def next_deadline_ns(self) -> int | None:
        """When ``grant`` has something."""
        if not self._held or not self.rate:
            return None
        lacking = max(0, self._slice - self._tokens)
        return self._since_ns + lacking * limits.SECOND // self.rate + 1
