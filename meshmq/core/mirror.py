"""One log of another node, as the node that copies it keeps it; core/mirrors.py has the rules."""

from __future__ import annotations

from collections.abc import Iterable

from meshmq import limits
from meshmq.core.claims import OF_GROUPS, has_all, takes
from meshmq.core.copied_journal import CopiedJournal
from meshmq.core.delivery import Delivery
from meshmq.core.journal import QUEUE
from meshmq.core.log import Entry
from meshmq.core.mirror_feed import CopiedTopics, MirrorFeed
from meshmq.core.mirror_log import LinkedEntry, MirrorEntry, StrandEntry, StrandsEntry, least
from meshmq.core.strands import BEGIN, Strands, furthest, strand_of
from meshmq.core.wished import patterns_in
from meshmq.frames_copies import Fetch, Fetched, Strand, StrandPlace
from meshmq.names import JOURNAL


class Mirror:
    """One copied log.

    Attributes:
        name: of its node.
        journal: what its groups have done, as far as that is stored here.
        place: received up to before there. synced: and stored. With strands the least of theirs.
        link, number: of the fetch under way; number 0: there is none.
        level: as in AskCopy; 0: nobody asked in this life of the link.
        again_ns: when to try again what failed.
        received: records that came so far.
        is_own: this log was it until it was renewed: nobody else writes it, nobody asks for it.
        lacks: rule 3. is_summing: the sum is on its way, from its first part on.
        holes: part of it came damaged, and has no bytes here.
        passed_bytes: that came and need not be stored; their credit is given back with the rest.
        linked: of a log of another site: which site, and what of it is mirrored.
        strands: by which such a log comes, by number, with how far each was received.
        stored: the same as far as it is synced. unstored: how often they were set since.
        credit: bytes that may be on their way here.
        terms: of the link that it is pulled over: whether batches come compressed, and its budget.
        ends: of a log of another site: by stream there, up to where there are records.
        begins: by stream there, one more than the offset from which on the source has it; 0: from
            where its own node has it.
        asks_sum: who mirrors it from here lacks part of the journal.
        passed: strands whose places are not stored; rule 8. kept: the furthest place's commit when
            all were.
        queues: of a log that is kept by our own word, topics that are queues.
    """

    def __init__(
        self, origin: bytes, name: str, place: tuple[int, int], main: Delivery, number: int
    ):
        self.origin = origin
        self.name = name
        self.place = self.synced = place
        self.topics = CopiedTopics()
        self.journal = CopiedJournal()
        self.feed = MirrorFeed(self.topics, origin, main, number, place)
        self.link = b""
        self.number = 0
        self.level = 0
        self.again_ns = 0
        self.problem = ""
        self.received = 0
        self.refused = 0
        self.lacks = self.is_summing = self.is_own = self.holes = False
        self.passed_bytes = 0
        self.linked: LinkedEntry | None = None
        self.strands: dict[int, Strand] = {}
        self.stored: Strands = ()
        self.unstored = 0
        self.credit = limits.COPY_CREDIT_BYTES
        self.terms: tuple[bool, int] = (False, 0)
        self.ends: dict[int, int] = {}
        self.begins: dict[int, int] = {}
        self.asks_sum = False
        self.passed: set[int] = set()
        self.kept = 0
        self.queues: frozenset[str] = frozenset()

    def lag(self) -> dict[str, int]:
        """By topic, records that are at the other site and not here, where there are some."""
        found: dict[str, int] = {}
        for number, end in self.ends.items():
            topic = self.topics.of_source(number)
            is_counted = topic is not None and topic.entry.name != JOURNAL
            if topic is None or not is_counted:
                continue
            have = max(topic.synced_offset, topic.first_offset, self.begins.get(number, 0) - 1)
            if end > have:
                found[topic.entry.name] = end - have
        return found

    def refuse(self, frame: Fetched, why: str) -> None:
        """A part is not taken; how much there is has been said with it all the same."""
        self.problem = frame.message if frame.code else why
        self.ends |= {facts.stream: facts.end for facts in frame.topics if facts.end}

    def fetch_frame(self) -> Fetch:
        """Asks for what is missing."""
        since = self.linked.begins_at if self.linked is not None else 0
        return Fetch(
            self.number, self.origin, *self.place, self.credit, self.level,
            strands=tuple(self.strands.values()), since=since, had=self._had(),
            packs=self.terms[0], whole=self.linked.whole if self.linked is not None else (0, 0),
        )  # fmt: skip

    def _had(self) -> tuple[tuple[int, int], ...]:
        """Streams that are here in part and may come again from the beginning, and how far."""
        begun = [strand for strand in self.strands.values() if strand.place == BEGIN]
        if not begun:
            return ()
        numbers = {strand.number for strand in begun}
        strands, pattern_of = self.strands.values(), patterns_in(self)
        had = [
            (source, same[-1].next_offset)
            for source, same in self.topics.by_source.items()
            if strand_of(strands, same[-1].entry.name, pattern_of) in numbers
        ]
        had.sort(key=lambda row: -row[1])
        return tuple([row for row in had if row[1]][: limits.STRAND_HAD_MAX])

    @property
    def used(self) -> set[int]:
        """Numbers of strands of which something is here."""
        return {topic.entry.strand for topic in self.topics.by_stream.values()}

    def place_of(self, strand: int) -> tuple[int, int]:
        """Received up to before there, of a strand, or of all where there are none."""
        return self.strands[strand].place if strand in self.strands else self.place

    def go_on(self, strand: int, place: tuple[int, int]) -> None:
        """More was received."""
        if strand not in self.strands:
            self.place = place
            return
        self.strands[strand] = self.strands[strand]._replace(lsn=place[0], slot=place[1])
        self.place = least(self.strands.values())
        self.passed.add(strand)

    @property
    def is_at_rest(self) -> bool:
        """Whether all is synced that was received of a log of another site."""
        is_stored = self.stored == tuple(self.strands.values())
        return self.linked is not None and is_stored and not self.unstored

    def take_passed(self) -> list[Entry]:
        """Places that are to be stored beside that of all."""
        passed, self.passed = self.passed, set()
        self.kept = furthest(self.strands.values())[0]
        return [StrandEntry(self.origin, n, *self.strands[n].place) for n in sorted(passed)]

    def has_all_of(self, strands: Iterable[Strand]) -> bool:
        """Whether all that these may have is wished here of a log of another site."""
        return self.linked is None or all(
            any(has_all(self.linked.claim, claim) for claim in strand.claims if claim != OF_GROUPS)
            for strand in strands
        )

    def begin_strands(self, strands: Strands) -> None:
        """It comes by these from now on; until that is stored each of them counts as far as all
        before did: nobody is to be told that what is wished anew is here."""
        self.unstored += 1
        self.store_strands(tuple([
            s._replace(lsn=lsn, slot=slot)
            for s in strands for lsn, slot in [min(s.place, self.synced)]
        ]))  # fmt: skip
        self.feed.strands = self.stored

    def on_strands(self, said: StrandsEntry | StrandEntry) -> None:
        """It is stored."""
        if isinstance(said, StrandsEntry):
            self.unstored = max(0, self.unstored - 1)
        if self.unstored:
            return  # the number of a strand may be that of another one by now
        self.store_strands(said.strands if isinstance(said, StrandsEntry) else tuple([
            s._replace(lsn=said.lsn, slot=said.slot) if s.number == said.number else s
            for s in self.stored
        ]))  # fmt: skip

    def store_strands(self, strands: Strands) -> None:
        """So far it is synced."""
        self.stored = strands
        self.synced = least(strands)

    def stored_places(self) -> tuple[StrandPlace, ...]:
        """How far each is synced of the strands that are pulled now."""
        now = self.strands
        same = [s for s in self.stored if s.number in now and now[s.number].claims == s.claims]
        # One that has begun anew under the number of another one is not stored yet.
        return tuple([StrandPlace(s.number, *min(s.place, now[s.number].place)) for s in same])

    @property
    def entry(self) -> MirrorEntry:
        """So far it has come."""
        return MirrorEntry(self.origin, self.name, *self.place, False, self.lacks, self.holes)

    def note(self, linked: LinkedEntry) -> None:
        """It is a log of another site, of which so much is mirrored and kept."""
        self.linked = linked
        self.topics.is_partial = linked.is_partial

    def is_wished(self, name: str) -> bool:
        """Whether a topic is pulled now, of a log of another site."""
        return self.linked is not None and takes((self.linked.claim,), name)

    def follows(self, name: str) -> bool:
        """Whether what its node trims of a topic goes here too; rule 5."""
        is_own = self.linked is not None and self.linked.retention is not None
        return not is_own or name.startswith("$") or name in self.queues

    def retention_of(self, name: str) -> tuple[int, int]:
        """For how long a topic is kept, ns, and how many bytes of it; 0: no bound. Rule 5."""
        if self.linked is None or self.linked.retention is None or self.follows(name):
            return 0, 0
        return (0, 0) if self.lacks else self.linked.retention[1:]

    def find_queues(self) -> frozenset[str]:
        """As its journal says."""
        settings = [state.settings for state in self.journal.groups.values()]
        return frozenset([s.name for s in settings if s.kind == QUEUE])

    @property
    def shown(self) -> str:
        """The name of its node, to be shown: of another site with that before it."""
        return self.name if self.linked is None else f"{self.linked.site}/{self.name}"
