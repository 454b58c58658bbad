"""What a program publishes, on its way to the programs that want it: who gets which batch.

Data: an Outlet for each subscription of each linked program: its credit, what waits for that. The
program itself is one of them, and so is the node that it is at, for all who are not linked.

Rules:
1. A topic's records are numbered once, for all who get them; numbers tell each what it did not.
2. Nothing is sent without credit, in bytes and in records; a batch is never split, so credit may be
   overdrawn by one.
3. What waits for credit is bounded: the oldest are dropped for that subscription alone, and it is
   told which (a row without bytes), before what is newer of that topic, GAP_TOLD_NS later at most.
4. A batch is under way until one of those it went to has it, or none is left. Then it is confirmed.
   So a flood goes as fast as its fastest reader. Who has not taken one for STALLED_NS has stalled:
   nobody waits for it, and it is sent nothing, until it is heard of again.
5. A program has what is published either from here or by the node (``over``: those that have it by
   the node). What more than FANOUT_MAX programs want goes to all of them by the node.
6. The node is sent nothing of a topic that it has called unwanted.
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

from meshmq import limits
from meshmq.errors import LimitReached
from meshmq.frames import Confirmation, Deliver, DeliverBatch, NotedRow, PublishBatch
from meshmq.names import matches

NODE = b"node"
"""Stands for the node where others are named by their link."""

DIRECT, BY_NODE = 1, 2
_ROUTES = ("", "direct", "node", "both")


class UnderWay:
    """One batch that is not confirmed yet, at ``left`` outlets.

    Attributes:
        route: how it goes, of DIRECT and BY_NODE.
        is_routed: not by the node to those who have it directly.
    """

    __slots__ = (
        "count", "due_ns", "first", "is_over", "is_routed", "left", "outlets", "route", "topic",
    )  # fmt: skip

    def __init__(self, row: PublishBatch, audience: Audience, due_ns: int) -> None:
        outlets = audience.outlets
        self.route = audience.route
        self.is_routed = audience.is_routed
        self.topic = row.topic
        self.first = row.first
        self.count = row.count
        self.outlets = outlets
        self.left = len(outlets)
        self.due_ns = due_ns
        self.is_over = False


class Audience(NamedTuple):
    """Who gets a topic now, and how: see UnderWay."""

    outlets: tuple[Outlet, ...]
    route: int
    is_routed: bool


class _Sent(NamedTuple):
    """A frame that is not acknowledged."""

    sequence: int
    batches: list[UnderWay]
    sent_ns: int
    size: int


class Outlet:
    """One subscription of one program.

    Attributes:
        queue: batches that wait for credit.
        gaps: of each topic the numbers, first and last, that were dropped and not told.
        gap_due_ns: when they are told at the latest.
        is_stalled: a batch was under way to it for STALLED_NS, and nothing was heard since.
        is_withheld: it may have nothing of what is published now.
    """

    __slots__ = (
        "credit_bytes", "credit_records", "delivered", "dropped", "gap_due_ns", "gaps",
        "is_stalled", "is_withheld", "link", "number", "pattern", "queue", "queue_bytes",
    )  # fmt: skip

    def __init__(self, link: bytes, number: int, pattern: str) -> None:
        self.link = link
        self.number = number
        self.pattern = pattern
        self.credit_bytes = 0
        self.credit_records = 0
        self.queue: deque[tuple[DeliverBatch, bytes, UnderWay]] = deque()
        self.queue_bytes = 0
        self.gaps: dict[str, tuple[int, int]] = {}
        self.gap_due_ns = 0
        self.is_stalled = False
        self.is_withheld = False
        self.delivered = 0
        self.dropped = 0

    @property
    def has_credit(self) -> bool:
        return self.credit_bytes > 0 and self.credit_records > 0


class Outlets:
    """See the module's header. Frames gather in ``sends``, confirmations in ``confirmations``.

    Attributes:
        numbers: the last one of each topic.
        unsure: of topics that the node was asked of, the first one that it may keep.
        delivered, dropped: records so far, to all.
        unwanted: topics of which the node wants nothing.
        reachable: links of programs that are at the same node.
        over: those of them that have what is published by the node.
    """

    def __init__(self) -> None:
        self.numbers: dict[str, int] = {}
        self.unsure: dict[str, int] = {}
        self.sends: list[tuple[Outlet, Deliver, list[UnderWay]]] = []
        self.confirmations: list[Confirmation] = []
        self.delivered = 0
        self.dropped = 0
        self.unwanted: set[str] = set()
        self.reachable: set[bytes] = set()
        self.over: set[bytes] = set()
        self._asked_up_to: dict[str, int] = {}
        self._outlets: dict[bytes, dict[int, Outlet]] = {}
        self._sent: dict[bytes, deque[_Sent]] = {}
        self._wanting: dict[str, Audience] = {}
        self._under_way: deque[UnderWay] = deque()
        self._gaps: dict[tuple[bytes, int], Outlet] = {}

    # -- who wants what -----------------------------------------------------------------------

    def join(self, link: bytes) -> None:
        """A program is linked; it wants nothing yet."""
        self._outlets[link] = {}
        self._sent[link] = deque()

    def leave(self, link: bytes) -> None:
        """It is gone: its numbers will tell it what it did not get, should it come back."""
        self.over.discard(link)
        self.reachable.discard(link)
        for number in list(self._outlets.get(link, ())):
            self.unwant(link, number)
        self._outlets.pop(link, None)
        for sent in self._sent.pop(link, ()):
            self.settle(sent.batches, False)

    def want(self, link: bytes, number: int, pattern: str) -> None:
        """A program subscribes."""
        self._outlets[link][number] = Outlet(link, number, pattern)
        self.changed()

    def unwant(self, link: bytes, number: int) -> None:
        """It does no longer."""
        outlet = self._outlets[link].pop(number, None)
        if outlet is not None:
            self._gaps.pop((link, number), None)
            self.changed()
            self.settle([under_way for _, _, under_way in outlet.queue], False)

    def withhold(self, link: bytes, number: int, is_withheld: bool) -> None:
        """A subscription may have what is published from here on, or not."""
        outlet = self._outlets[link].get(number)
        if outlet is not None and outlet.is_withheld != is_withheld:
            outlet.is_withheld = is_withheld
            waiting, outlet.queue, outlet.queue_bytes = outlet.queue, deque(), 0
            outlet.gaps.clear()  # its numbers will tell, of those as well
            self._gaps.pop((link, number), None)
            self.settle([under_way for _, _, under_way in waiting], False)
            self.changed()

    def given(self, link: bytes) -> list[int]:
        """Subscriptions of a program that have what is published."""
        return [number for number, o in self._outlets[link].items() if not o.is_withheld]

    def next_numbers(self, patterns: list[str]) -> list[NotedRow]:
        """Where topics go on that one of these covers."""
        return [
            NotedRow(topic, last + 1, self.unsure.get(topic, 0))
            for topic, last in self.numbers.items()
            if any(matches(pattern, topic) for pattern in patterns)
        ]

    def attach(self, window_bytes: int) -> None:
        """There is a session with a node, which takes so much at a time."""
        self.join(NODE)
        node = Outlet(NODE, 0, ">")
        node.credit_bytes, node.credit_records = window_bytes, limits.CREDIT_RECORDS_MAX
        self._outlets[NODE][0] = node
        self.changed()

    def detach(self) -> None:
        """It is over."""
        if NODE in self._outlets:
            self.leave(NODE)
        self.unwanted.clear()
        self._asked_up_to = {}
        self.changed()

    def changed(self) -> None:
        """Who gets what has changed."""
        self._wanting.clear()

    def want_no_more(self, topic: str, last: int) -> None:
        """Rule 6; said of records up to ``last``: no longer true if they went before somebody was
        to have them by the node again."""
        if last > self._asked_up_to.get(topic, 0):
            self.unwanted.add(topic)
            self._wanting.pop(topic, None)

    def want_again(self) -> None:
        """Somebody is to have by the node what he had directly."""
        self.unwanted.clear()
        self._asked_up_to = dict(self.numbers)
        self.changed()

    def audience(self, topic: str) -> Audience:
        """Whoever gets ``topic``; rules 5 and 6."""
        found = self._wanting.get(topic)
        if found is None:
            found = self._wanting[topic] = self._find(topic)
        return found

    def _find(self, topic: str) -> Audience:
        direct = [outlet for outlet in self._linked(topic).outlets if outlet.link not in self.over]
        node = self._outlets.get(NODE)
        if node is None:
            return Audience(tuple(direct), DIRECT if direct else 0, True)
        reachable = {o.link for o in direct if o.link in self.reachable}
        is_routed = len(reachable) <= limits.DIRECT_FANOUT_MAX
        if not is_routed:
            direct = [o for o in direct if o.link not in reachable]
        elif topic in self.unwanted:
            return Audience(tuple(direct), DIRECT if direct else 0, True)
        route = BY_NODE | (DIRECT if direct else 0)
        return Audience((*direct, node[0]), route, is_routed)

    def _linked(self, topic: str) -> Audience:
        found = [
            outlet
            for link, outlets in self._outlets.items()
            if link != NODE
            for outlet in outlets.values()
            if matches(outlet.pattern, topic) and not outlet.is_withheld
        ]
        return Audience(tuple(found), DIRECT if found else 0, True)

    def grant(self, link: bytes, number: int, size: int, records: int) -> bool:
        """A subscription can take so much more; whether there is such a one."""
        outlet = self._outlets[link].get(number)
        if outlet is None:
            return False
        outlet.credit_bytes = min(outlet.credit_bytes + size, limits.CREDIT_BYTES_MAX)
        outlet.credit_records = min(outlet.credit_records + records, limits.CREDIT_RECORDS_MAX)
        outlet.is_stalled = False
        if outlet.queue:
            self._flush(outlet)
        return True

    def counts(self, link: bytes) -> tuple[int, int, int]:
        """Of a program: records delivered and dropped, bytes that wait."""
        outlets = self._outlets[link].values()
        return (
            sum([o.delivered for o in outlets]),
            sum([o.dropped for o in outlets]),
            sum([o.queue_bytes for o in outlets]),
        )

    # -- records ------------------------------------------------------------------------------

    def number(self, row: PublishBatch, *, is_sure: bool) -> None:
        """A batch went to the node; whether it is sure that this does not keep it."""
        topic = row.topic
        if not is_sure:
            self.unsure.setdefault(topic, row.first)
        # A pinned one may be sent again, behind what went directly since.
        self.numbers[topic] = max(self.numbers.get(topic, 0), row.first + row.count - 1)

    def publish(self, row: PublishBatch, data: bytes, now_ns: int, by_node: bool = True) -> None:
        """Send a batch to whoever wants it; without the node only to those who are linked."""
        topic = row.topic
        if topic not in self.numbers and len(self.numbers) >= limits.TOPICS_MAX:
            why = f"a program publishes on at most {limits.TOPICS_MAX} topics directly"
            no = Confirmation(topic, row.first, row.count, LimitReached.code, why)
            self.confirmations.append(no)
            return
        self.numbers[topic] = row.first + row.count - 1
        audience = self.audience(topic) if by_node else self._linked(topic)
        outlets = audience.outlets
        if not outlets:
            self._confirm(topic, row.first, row.count, 0)
            return
        delivery = DeliverBatch(topic, row.first, row.count, row.length, row.checksum, 0, 0, 0)
        under_way = UnderWay(row, audience, now_ns + limits.STALLED_NS)
        if all(outlet.is_stalled for outlet in outlets):
            self._end(under_way)
        else:
            self._under_way.append(under_way)
        for outlet in outlets:
            waiting = self._sent[outlet.link]
            if waiting and now_ns - waiting[0].sent_ns > limits.STALLED_NS:
                outlet.is_stalled = True
            outlet.queue.append((delivery, data, under_way))
            outlet.queue_bytes += row.length
            self._flush(outlet)
            if outlet.queue_bytes > limits.DIRECT_QUEUE_BYTES_MAX:
                self._drop_oldest(outlet, now_ns)

    def _flush(self, outlet: Outlet) -> None:
        queue = outlet.queue
        if outlet.is_stalled:
            return
        while queue and outlet.has_credit:
            rows: list[DeliverBatch] = self._gap_rows(outlet)
            parts: list[bytes] = []
            batches: list[UnderWay] = []
            size = records = 0
            while queue and len(rows) < limits.FRAME_BATCHES_MAX:
                row, data, under_way = queue[0]
                if parts and (
                    size >= outlet.credit_bytes
                    or records >= outlet.credit_records
                    or size + row.length > limits.BATCH_BYTES_TARGET * 5 // 4
                ):
                    break
                queue.popleft()
                rows.append(row)
                parts.append(data)
                batches.append(under_way)
                size += row.length
                records += row.count
            outlet.queue_bytes -= size
            outlet.credit_bytes -= size
            outlet.credit_records -= records
            outlet.delivered += records
            self.delivered += records
            payload = parts[0] if len(parts) == 1 else b"".join(parts)
            self.sends.append((outlet, Deliver(outlet.number, tuple(rows), 0, payload), batches))

    def _drop_oldest(self, outlet: Outlet, now_ns: int) -> None:
        queue = outlet.queue
        dropped: list[UnderWay] = []
        while len(queue) > 1 and outlet.queue_bytes > limits.DIRECT_QUEUE_BYTES_MAX:
            row, _, under_way = queue.popleft()
            outlet.queue_bytes -= row.length
            outlet.dropped += row.count
            self.dropped += row.count
            dropped.append(under_way)
            if outlet.link == NODE:
                continue  # its numbers will tell those who get it there
            if not outlet.gaps:
                outlet.gap_due_ns = now_ns + limits.GAP_TOLD_NS
                self._gaps[outlet.link, outlet.number] = outlet
            first = outlet.gaps.get(row.topic, (row.base_offset, 0))[0]
            outlet.gaps[row.topic] = (first, row.base_offset + row.count - 1)
            if len(outlet.gaps) >= limits.FRAME_BATCHES_MAX // 2:
                self._tell_gaps(outlet)
        self.settle(dropped, False)

    def _gap_rows(self, outlet: Outlet) -> list[DeliverBatch]:
        if not outlet.gaps:
            return []
        rows = [
            DeliverBatch(topic, first, last - first + 1, 0, 0, 0, 0, 0, missing=True)
            for topic, (first, last) in outlet.gaps.items()
        ]
        outlet.gaps.clear()
        self._gaps.pop((outlet.link, outlet.number), None)
        return rows

    def _tell_gaps(self, outlet: Outlet) -> None:
        rows = self._gap_rows(outlet)
        self.sends.append((outlet, Deliver(outlet.number, tuple(rows), 0, b""), []))

    # -- confirmations ------------------------------------------------------------------------

    def sent(
        self, link: bytes, sequence: int, batches: list[UnderWay], now_ns: int, size: int = 0
    ) -> None:
        """A frame of ``sends`` has left as ``sequence``."""
        self._sent[link].append(_Sent(sequence, batches, now_ns, size))

    def on_acked(self, link: bytes, acked: int) -> None:
        """A program has every frame up to ``acked``."""
        waiting = self._sent[link]
        if not waiting or waiting[0].sequence > acked:
            return
        size = 0
        while waiting and waiting[0].sequence <= acked:
            sent = waiting.popleft()
            size += sent.size
            self.settle(sent.batches, True)
        if size:
            self.grant(link, 0, size, 0)  # the node gives no credit but by taking what came
        for outlet in self._outlets[link].values():
            if outlet.is_stalled:
                outlet.is_stalled = False
                self._flush(outlet)

    def settle(self, batches: list[UnderWay], has_come: bool) -> None:
        """An outlet has brought these to their reader, or never will."""
        for under_way in batches:
            under_way.left -= 1
            if not under_way.is_over and (has_come or not under_way.left):
                self._end(under_way)

    def _end(self, under_way: UnderWay) -> None:
        under_way.is_over = True
        self._confirm(under_way.topic, under_way.first, under_way.count, under_way.route)

    def _confirm(self, topic: str, first: int, count: int, by: int) -> None:
        before = self.confirmations[-1] if self.confirmations else None
        last, route = first + count - 1, _ROUTES[by]
        if (
            before is not None
            and before.topic == topic
            and before.last + 1 == first
            and before.route == route
        ):
            self.confirmations[-1] = before._replace(count=before.count + count, last=last)
        else:
            self.confirmations.append(Confirmation(topic, first, count, last=last, route=route))

    # -- time ---------------------------------------------------------------------------------

    def next_deadline_ns(self) -> int | None:
        """When ``tick`` has something to do."""
        under_way = self._under_way
        if not (under_way or self._gaps):
            return None
        while under_way and under_way[0].is_over:
            under_way.popleft()
        due = under_way[0].due_ns if under_way else None
        if self._gaps:
            for outlet in self._gaps.values():
                if due is None or outlet.gap_due_ns < due:
                    due = outlet.gap_due_ns
        return due

    def tick(self, now_ns: int) -> None:
        """Rules 3 and 4."""
        under_way = self._under_way
        while under_way and (under_way[0].is_over or under_way[0].due_ns <= now_ns):
            late = under_way.popleft()
            if not late.is_over:
                for outlet in late.outlets:
                    # Else nothing would be heard of it: it has what it was sent, and room.
                    is_owing = bool(self._sent.get(outlet.link)) or not outlet.has_credit
                    outlet.is_stalled = outlet.is_stalled or is_owing
                self._end(late)
        for outlet in [o for o in self._gaps.values() if o.gap_due_ns <= now_ns]:
            self._tell_gaps(outlet)

    def take_sends(self) -> list[tuple[bytes, Deliver, list[UnderWay]]]:
        """Frames to send, by link; the sender tells when they have left (``sent``)."""
        sends, self.sends = self.sends, []
        found = []
        for outlet, frame, batches in sends:
            if outlet.link in self._outlets:
                found.append((outlet.link, frame, batches))
            else:
                self.settle(batches, False)
        return found
