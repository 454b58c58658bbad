"""One log on its way to another site: what of it may leave is the business of core/link_flow.py."""

from __future__ import annotations

from dataclasses import dataclass, field

from meshmq import limits
from meshmq.core.copy_sender import Sender, facts_of
from meshmq.core.link_flow import Flight, LinkFlow
from meshmq.core.packing import Packer
from meshmq.frames_copies import Fetched


@dataclass(slots=True, eq=False, kw_only=True)
class FarSender(Sender):
    """A log on its way to another site.

    Attributes:
        flow: of the link.
        packer: makes blocks of what leaves; None: the other end wants none.
        granted: bytes, as they are stored, that the other end has room for. ``credit_bytes`` is
            the smaller of that and what the link has room for, as of the last look.
        ends_told: what was said of how far its streams go.
    """

    flow: LinkFlow
    packer: Packer | None = None
    flight: Flight = field(init=False)
    granted: int = field(init=False)
    ends_told: dict[int, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.granted = self.credit_bytes
        self.flight = Flight(self)

    @property
    def has_credit(self) -> bool:
        room = self.flow.room(self.flight) if self.granted > 0 else 0
        self.credit_bytes = min(self.granted, room)
        return self.credit_bytes > 0

    def grant(self, size: int) -> None:
        self.granted = min(self.granted + size, limits.LINK_CREDIT_BYTES)

    def read_done(self) -> None:
        self.flow.is_freed = True

    def stored(self, place: tuple[int, int], size: int) -> None:
        """The other end has stored it up to before a place, and has room for so much more."""
        self.copied = place
        self.grant(size)
        self.flow.on_stored(self.flight, place)

    def put(self, frame: Fetched) -> None:
        raw = len(frame.payload)
        self.granted -= raw
        if self.packer is not None:
            frame = self.packer.packed(frame)
        size = len(frame.payload) + len(frame.batches) * limits.LINK_ROW_BYTES
        self.flow.on_sent(self.flight, (frame.lsn, frame.slot), size, raw)
        Sender.put(self, frame)

    def tell_changes(self) -> None:
        Sender.tell_changes(self)
        changed = []
        for number, topic in self.by_stream.items():
            end = topic.synced_offset
            if end > self.ends_told.get(number, 0) and self.takes(topic.entry.name):
                self.ends_told[number] = end
                self.told[number] = facts = facts_of(topic)
                changed.append(facts._replace(end=end))
        self.tell(changed)
