"""What a program pushes: each record to one of those who pull.

Rules:
1. A record goes to the one that has the least of what it was given and has not read, in turn among
   equals, and only to one with credit; credit is never overdrawn. A batch is cut so that all with
   credit get a share.
2. It is handed over once: what was on its way to a program whose link is lost is lost, and told so.
3. Without credit it waits for as long as somebody pulls; PUSH_WAIT_NS if nobody does.
4. A batch is confirmed when all of it has come to those it was handed to.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from meshmq import limits
from meshmq.errors import LinkLost, NoResponders
from meshmq.frames import Confirmation, Deliver, DeliverBatch, PublishBatch
from meshmq.names import matches, pushed_topic

Decode = Callable[[bytes, int], Any]
Pick = Callable[[Any, Sequence[int]], bytes]


class Puller:
    """One pull of one program.

    Attributes:
        has: records it was given and has not read.
        turn: of the last hand-over to it.
    """

    __slots__ = ("credit_bytes", "credit_records", "has", "link", "number", "pattern", "turn")

    def __init__(self, link: bytes, number: int, pattern: str) -> None:
        self.link = link
        self.number = number
        self.pattern = pattern
        self.credit_bytes = 0
        self.credit_records = 0
        self.has = -1  # nothing is known before its first credit
        self.turn = 0

    @property
    def has_credit(self) -> bool:
        return self.credit_bytes > 0 and self.credit_records > 0


class Push:
    """One batch, or what is left of it.

    Attributes:
        at: records that are handed over.
        parts: hand-overs that are not acknowledged.
        is_lost: one of them never will be.
    """

    __slots__ = ("at", "data", "due_ns", "is_lost", "is_over", "parts", "records", "row", "topic")

    def __init__(self, row: PublishBatch, data: bytes, due_ns: int) -> None:
        self.row = row
        self.topic = pushed_topic(row.topic)
        self.data = data
        self.due_ns = due_ns
        self.at = 0
        self.parts = 0
        self.is_lost = False
        self.is_over = False
        self.records: Any = None


class Pushes:
    """See the module's header.

    Args:
        decode, pick: the codec's.

    Attributes:
        sends: frames by link, and the batch they are of.
        confirmations: for the publisher.
        waiting: lane and first sequence of what has to wait, for the publisher.
    """

    def __init__(self, decode: Decode, pick: Pick) -> None:
        self.sends: list[tuple[bytes, Deliver, Push]] = []
        self.confirmations: list[Confirmation] = []
        self.waiting: list[tuple[str, int]] = []
        self.handed = 0
        self._decode = decode
        self._pick = pick
        self._pullers: dict[tuple[bytes, int], Puller] = {}
        self._queues: dict[str, deque[Push]] = {}
        self._sent: dict[bytes, deque[tuple[int, Push]]] = {}
        self._turn = 0

    # -- who pulls ----------------------------------------------------------------------------

    def want(self, link: bytes, number: int, pattern: str) -> None:
        """A program pulls."""
        self._pullers[link, number] = Puller(link, number, pattern)

    def unwant(self, link: bytes, number: int) -> None:
        """It does no longer."""
        self._pullers.pop((link, number), None)

    def leave(self, link: bytes, now_ns: int) -> None:
        """A program is gone."""
        for key in [key for key in self._pullers if key[0] == link]:
            del self._pullers[key]
        for _, push in self._sent.pop(link, ()):
            push.is_lost = True
            push.parts -= 1
            self._look(push)

    def grant(self, link: bytes, number: int, size: int, records: int, now_ns: int) -> bool:
        """A pull can take so much more; whether there is such a pull."""
        puller = self._pullers.get((link, number))
        if puller is None:
            return False
        puller.credit_bytes = min(puller.credit_bytes + size, limits.CREDIT_BYTES_MAX)
        puller.credit_records = min(puller.credit_records + records, limits.PULL_RECORDS_MAX)
        puller.has = 0 if puller.has < 0 else max(0, puller.has - records)
        for topic in [t for t in self._queues if matches(puller.pattern, t)]:
            self._feed(topic, now_ns)
        return True

    # -- records ------------------------------------------------------------------------------

    def push(self, row: PublishBatch, data: bytes, now_ns: int) -> None:
        """Hand a batch over, now or when there is credit."""
        push = Push(row, data, now_ns + limits.PUSH_WAIT_NS)
        self._queues.setdefault(push.topic, deque()).append(push)
        self._feed(push.topic, now_ns)
        if push.at < row.count:
            self.waiting.append((row.topic, row.first))

    def _feed(self, topic: str, now_ns: int) -> None:
        queue = self._queues[topic]
        pulling = [p for p in self._pullers.values() if matches(p.pattern, topic)]
        while queue:
            push = queue[0]
            able = [p for p in pulling if p.has_credit]
            if not able:
                if pulling:  # rule 3 begins anew once nobody pulls
                    push.due_ns = now_ns + limits.PUSH_WAIT_NS
                return
            left = push.row.count - push.at
            puller = min(able, key=lambda p: (p.has, p.turn))
            count = min(-(-left // len(able)), puller.credit_records)
            self._hand_over(push, puller, count)
            if push.at == push.row.count:
                push.data, push.records = b"", None
                queue.popleft()
        del self._queues[topic]

    def _hand_over(self, push: Push, puller: Puller, count: int) -> None:
        whole, first = push.row, push.row.first + push.at
        data = push.data
        if count < whole.count:
            if push.records is None:
                push.records = self._decode(push.data, whole.count)
            data = self._pick(push.records, range(push.at, push.at + count))
        row = DeliverBatch(push.topic, first, count, len(data), 0, 0, 0, 0)
        push.at += count
        push.parts += 1
        self._turn += 1
        puller.turn = self._turn
        puller.has += count
        puller.credit_bytes -= len(data)
        puller.credit_records -= count
        self.handed += count
        self.sends.append((puller.link, Deliver(puller.number, (row,), 0, data), push))

    def sent(self, link: bytes, sequence: int, push: Push) -> None:
        """A frame of ``sends`` has left as ``sequence``."""
        self._sent.setdefault(link, deque()).append((sequence, push))

    def on_acked(self, link: bytes, acked: int) -> None:
        """A program has every frame up to ``acked``."""
        sent = self._sent.get(link)
        while sent and sent[0][0] <= acked:
            self.came(sent.popleft()[1])

    def came(self, push: Push) -> None:
        """A part of it has come to whom it was handed."""
        push.parts -= 1
        self._look(push)

    def lost(self, push: Push) -> None:
        """A part of it cannot be sent any more."""
        push.is_lost = True
        push.parts -= 1
        self._look(push)

    def _look(self, push: Push) -> None:
        row = push.row
        if push.is_over or push.parts or push.at < row.count:
            return
        push.is_over = True
        if push.is_lost:
            self._refuse(push)
        else:
            self.confirmations.append(
                Confirmation(
                    row.topic, row.first, row.count, last=row.first + row.count - 1, route="direct"
                )
            )

    def _refuse(self, push: Push) -> None:
        row = push.row
        why = f"the link was lost before a program that pulls {push.topic!r} had it"
        self.confirmations.append(Confirmation(row.topic, row.first, row.count, LinkLost.code, why))

    # -- time ---------------------------------------------------------------------------------

    def next_deadline_ns(self) -> int | None:
        """When ``tick`` has something to do."""
        if not self._queues:
            return None
        return min((queue[0].due_ns for queue in self._queues.values() if queue), default=None)

    def tick(self, now_ns: int) -> None:
        """Rule 3."""
        for topic, queue in list(self._queues.items()):
            while queue and queue[0].due_ns <= now_ns:
                if any(matches(p.pattern, topic) for p in self._pullers.values()):
                    queue[0].due_ns = now_ns + limits.PUSH_WAIT_NS
                    break
                self._give_up(queue.popleft())
            if not queue:
                del self._queues[topic]

    def _give_up(self, push: Push) -> None:
        push.is_over = True
        push.data, push.records = b"", None
        row = push.row
        if push.at:
            self._refuse(push)
        else:
            why = f"nobody pulls {push.topic!r}: start a program that does (mesh.pull)"
            self.confirmations.append(
                Confirmation(row.topic, row.first, row.count, NoResponders.code, why)
            )
