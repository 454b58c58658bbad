"""What travels, as values. How it looks in bytes is the codec's business.

A frame is an Envelope (session, sequence, ack) around one Body. Publish and Deliver carry the
bytes of their batches in ``payload``, back to back, in the order of ``batches``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from meshmq import frames_copies, frames_site_words
from meshmq.frames_direct import Introduce as Introduce
from meshmq.frames_direct import Known as Known
from meshmq.frames_direct import KnownPeer as KnownPeer
from meshmq.frames_direct import Route as Route
from meshmq.frames_direct import Routes as Routes
from meshmq.frames_direct import Wanted as Wanted
from meshmq.frames_directory import DirectoryFrame as DirectoryFrame
from meshmq.frames_moving import Drained as Drained
from meshmq.frames_moving import Moved as Moved
from meshmq.frames_moving import Published as Published
from meshmq.frames_moving import moved_of as moved_of
from meshmq.frames_offers import Offer as Offer
from meshmq.frames_offers import Offers as Offers
from meshmq.frames_site import Lend as Lend
from meshmq.frames_site import Lent as Lent
from meshmq.frames_site import NodeFacts as NodeFacts
from meshmq.frames_site import Owner as Owner
from meshmq.frames_site import Pulse as Pulse
from meshmq.frames_site import SiteInterests as SiteInterests
from meshmq.frames_site import WorkReady as WorkReady
from meshmq.frames_site import WorkReadyRow as WorkReadyRow
from meshmq.frames_streams import Place as Place
from meshmq.frames_streams import Streams as Streams
from meshmq.frames_streams import StreamsRow as StreamsRow

PROTOCOL_MAJOR = 1
PROTOCOL_MINOR = 7
DIRECT_READS_MINOR = 7  # from which on nodes know of clients that read at several of them

START_NEW, START_EARLIEST, START_TIME, START_OFFSET, START_POSITION = range(5)
SENT, SYNCED, REPLICATED = 0, 1, 2
DURABILITY_NAMES = ("sent", "synced", "replicated")  # and mirrored:n; see durability.py


@dataclass(frozen=True, slots=True)
class PeerFacts:
    """What is said of a peer, by itself or by others. True is only what a handshake says.

    Attributes:
        instance: 16 bytes: a client's instance id, a node's origin; empty where only an address
            is known.
        kind: ``node`` or ``client``, or empty where only an address is known.
        mesh, name, major, minor: as in its handshake.
        addresses: where it may be reached: ``tcp://IP:PORT`` or ``ipc:///PATH``.
    """

    instance: bytes = b""
    kind: str = ""
    mesh: str = ""
    name: str = ""
    major: int = PROTOCOL_MAJOR
    minor: int = PROTOCOL_MINOR
    addresses: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Hello:
    """``direct``: a program wants a link between programs; it may be dialled at ``addresses``.

    ``node``: it is one, ``instance`` its origin, ``addresses`` those of its listener for nodes.
    ``reads``: a program that is at another node, and reads here what was published here.
    ``admin``: only commands will come: a node that drains lets it in.
    """

    major: int
    minor: int
    mesh: str
    instance: bytes
    producer: bytes
    name: str = ""
    software: str = ""
    direct: bool = False
    addresses: tuple[str, ...] = ()
    node: NodeFacts | None = None
    reads: bool = False
    admin: bool = False


@dataclass(frozen=True, slots=True)
class Welcome:
    """``direct``: a program answers; ``origin`` is its instance. ``site``: of the node."""

    major: int
    minor: int
    origin: bytes
    name: str
    software: str
    in_flight_bytes: int
    direct: bool = False
    addresses: tuple[str, ...] = ()
    node: NodeFacts | None = None
    site: str = ""


@dataclass(frozen=True, slots=True)
class Refuse:
    """``peers``: where to go instead (KnownPeer)."""

    code: str
    message: str
    peers: tuple[KnownPeer, ...] = ()


@dataclass(frozen=True, slots=True)
class Nothing:
    """Carries only the envelope's ack."""


@dataclass(frozen=True, slots=True)
class Gap:
    """Asks the peer to send again from the envelope's ack on."""


@dataclass(frozen=True, slots=True)
class Ping:
    pass


@dataclass(frozen=True, slots=True)
class Bye:
    pass


Payload = bytes | memoryview
"""What came may be a view of the transport's memory, where whoever reads it copies it anyway."""


class PublishBatch(NamedTuple):
    """One batch of one topic; ``length`` bytes of the frame's payload are its encoding.

    ``numbered``: of a transient topic, ``first`` counts without gaps what this run of the program
    sends of it by all routes. ``routed``: those whom Routes names have it directly. ``moved``: to
    which node it was sent first (``Moved.pack``), or empty. ``replicated``: confirm it again when
    its copies are synced; ``mirrors``: when so many sites have. ``of_run``: as names.run_of has it.
    """

    topic: str
    first: int
    after: int
    count: int  # type: ignore[assignment]  # hides tuple.count, which nobody needs
    length: int
    checksum: int
    resent: bool = False
    job: bool = False
    numbered: bool = False
    routed: bool = False
    moved: bytes = b""
    replicated: bool = False
    of_run: bool = False
    mirrors: int = 0


@dataclass(frozen=True, slots=True)
class Publish:
    batches: tuple[PublishBatch, ...]
    payload: bytes


class Confirmation(NamedTuple):
    """Answer to one batch: ``code`` empty means done, else it is an error's code. ``unwanted``: at
    the node nobody wants the topic, until a Wanted. ``route`` does not travel: ``"node"``, and for
    what a program hands over itself ``"direct"``, ``"both"``, or empty where nobody wanted it.
    ``more``: a second one follows, when its copies are synced, or so many sites have it."""

    topic: str
    first: int
    count: int  # type: ignore[assignment]  # hides tuple.count, which nobody needs
    code: str = ""
    message: str = ""
    base_offset: int = 0
    append_time_ns: int = 0
    topic_id: bytes = b""
    durability: int = SENT
    last: int = 0
    duplicate: bool = False
    has_offset: bool = False
    unwanted: bool = False
    route: str = "node"
    more: bool = False


@dataclass(frozen=True, slots=True)
class Confirm:
    confirmations: tuple[Confirmation, ...]


@dataclass(frozen=True, slots=True)
class Window:
    """How many bytes a producer may have unconfirmed from now on, and that it must send nothing
    for ``pause_ns``."""

    in_flight_bytes: int
    pause_ns: int


ALL, TRANSIENT_ONLY, DURABLE_ONLY = range(3)
"""What kinds of topics a subscription reads."""


@dataclass(frozen=True, slots=True)
class Subscribe:
    """``origin``, ``lsn`` and ``slot`` are a place as those in ``places``. ``value`` is unix ns, or
    an offset; of START_POSITION from when on (unix ns) logs are read that have no place.
    ``copy_of``: read what the node has copied of this log, by the places that has. ``alone``: the
    node's own log, and nothing of those of others. ``own_site``: the logs of the node's site, and
    nothing of what is mirrored there of other sites."""

    subscription: int
    pattern: str
    start: int
    value: int
    origin: bytes
    lsn: int
    slot: int
    credit_bytes: int
    credit_records: int
    only: int = ALL
    places: tuple[Place, ...] = ()
    dedup: bool = False
    copy_of: bytes = b""
    alone: bool = False
    own_site: bool = False


@dataclass(frozen=True, slots=True)
class Subscribed:
    """``lsn`` 0: where reading begins shows with the first batch. ``time_ns``: when it was
    answered, by the node's clock."""

    subscription: int
    code: str = ""
    message: str = ""
    origin: bytes = b""
    lsn: int = 0
    slot: int = 0
    topics: int = 0
    time_ns: int = 0


@dataclass(frozen=True, slots=True)
class Unsubscribe:
    subscription: int


@dataclass(frozen=True, slots=True)
class Credit:
    subscription: int
    bytes: int
    records: int


class DeliverBatch(NamedTuple):
    """One batch on its way to a subscriber; ``lsn`` 0 marks a transient one, without offsets.

    Between programs, and by a node with a ``source`` (the run of the program that published),
    ``base_offset`` is the producer's number of the first record, from 1, and ``missing`` marks
    records that were dropped on the way. A ``source`` without records is a marker: all that it had
    sent by this route has been told.

    ``origin``: of a durable one whose log it is in; empty: that of the node that delivers it.
    ``published``: of a durable one whose subscription asks for it. ``site``: of a transient one the
    other site that it comes from; empty: our own.
    """

    topic: str
    base_offset: int
    count: int  # type: ignore[assignment]  # hides tuple.count, which nobody needs
    length: int
    checksum: int
    append_time_ns: int
    lsn: int
    slot: int
    damaged: bool = False
    missing: bool = False
    source: bytes = b""
    origin: bytes = b""
    published: Published | None = None
    site: str = ""


@dataclass(frozen=True, slots=True)
class Deliver:
    subscription: int
    batches: tuple[DeliverBatch, ...]
    missed: int
    payload: Payload


@dataclass(frozen=True, slots=True)
class Command:
    id: int
    verb: str
    arguments: bytes


@dataclass(frozen=True, slots=True)
class Result:
    id: int
    code: str
    message: str
    body: bytes


ACK, NACK, REJECT, EXTEND, RETURN = range(5)
"""What a member says of records: done; again, later; never; I need longer; not begun."""

BACKOFF = -1
"""For a nack's delay: what the group's back-off says."""


class Holding(NamedTuple):
    """What a member that comes back still holds: records ``indices`` of an earlier hand-out.

    ``origin`` is its owner's; empty: of the node that is asked. ``size`` is in bytes, about.
    """

    number: int
    topic: str
    offsets: tuple[int, ...]
    attempt: int
    origin: bytes = b""
    size: int = 0


@dataclass(frozen=True, slots=True)
class Consume:
    """Join a group; ``create`` (a JSON object of its settings) makes it where it is missing.

    Attributes:
        origin: join only at this owner; empty: at the node that is asked, which sees to the others.
        instance, name, member: from a node on behalf of a program: its run, its name, and its own
            number for the consumer.
        epoch: counts the program's sessions with nodes: what an older one says comes late.
    """

    consumer: int
    group: str
    pattern: str
    create: bytes
    prefetch_records: int
    prefetch_bytes: int
    ack_timeout_ns: int
    holdings: tuple[Holding, ...] = ()
    origin: bytes = b""
    instance: bytes = b""
    name: str = ""
    member: int = 0
    epoch: int = 0


@dataclass(frozen=True, slots=True)
class Consumed:
    """The answer; ``lost`` numbers hand-outs of ``holdings`` that are no longer the member's.

    ``origin`` is the owner whose answer it is. ``shared``: other owners' hand-outs come too; what
    is held of them is claimed when Owner says that they are there.
    """

    consumer: int
    code: str = ""
    message: str = ""
    order: int = 0
    lost: tuple[int, ...] = ()
    origin: bytes = b""
    shared: bool = False


class HandOutRow(NamedTuple):
    """Records of one batch on their way to one member.

    Attributes:
        number: of the hand-out; what the member settles refers to it.
        first: offset of the first record.
        count: records handed out.
        skip: index of the first of them in its batch.
        held: how many records the bytes hold: ``count``, those handed out; more, all of the batch.
        attempt: 1 for the first delivery of these records.
        maybe_duplicate: somebody may have worked on them already.
        offsets: their offsets where they are not ``first``, ``first + 1`` ..., else empty.
        topic_key: the beginning of the topic's id, see ``names.topic_key``.
    """

    topic: str
    number: int
    first: int
    count: int  # type: ignore[assignment]  # hides tuple.count, which nobody needs
    skip: int
    held: int
    length: int
    checksum: int
    append_time_ns: int
    lsn: int
    slot: int
    attempt: int = 1
    maybe_duplicate: bool = False
    offsets: tuple[int, ...] = ()
    topic_key: int = 0

    def places(self) -> Sequence[int]:
        """Where the records handed out are among those the bytes hold."""
        if self.held == self.count:
            return range(self.count)
        if not self.offsets:
            return range(self.skip, self.skip + self.count)
        shift = self.skip - self.first
        return [offset + shift for offset in self.offsets]


@dataclass(frozen=True, slots=True)
class HandOut:
    """``origin`` is the owner's; empty: the node's own, as in the frames below."""

    consumer: int
    rows: tuple[HandOutRow, ...]
    payload: bytes
    origin: bytes = b""


class SettleRow(NamedTuple):
    """What becomes of records ``first`` (an index) and following of a hand-out.

    ``delay_ns`` is a nack's delay (BACKOFF: as the group says) or an extension from now.
    """

    number: int
    first: int
    count: int  # type: ignore[assignment]  # hides tuple.count, which nobody needs
    kind: int
    delay_ns: int = 0
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Settle:
    """``number`` counts a member's frames to each owner from 1, in each session with it; Settled
    answers them in order."""

    consumer: int
    number: int
    rows: tuple[SettleRow, ...]
    origin: bytes = b""


@dataclass(frozen=True, slots=True)
class Settled:
    """Frames up to ``number`` are stored; ``stale`` are rows that were refused (kind: theirs)."""

    consumer: int
    number: int
    stale: tuple[SettleRow, ...] = ()
    origin: bytes = b""


@dataclass(frozen=True, slots=True)
class Revoke:
    """These records are no longer the member's; what of them it has not begun it must drop."""

    consumer: int
    rows: tuple[SettleRow, ...]
    origin: bytes = b""


@dataclass(frozen=True, slots=True)
class Leave:
    """``lost``: of a member whose session was lost: it may come back for what it holds."""

    consumer: int
    lost: bool = False


class TransactAck(NamedTuple):
    """One acked run of a transaction: which member's hand-out, and which of its records."""

    consumer: int
    number: int
    first: int
    count: int  # type: ignore[assignment]  # hides tuple.count, which nobody needs


@dataclass(frozen=True, slots=True)
class Transact:
    """Publish ``batches`` and ack, all or nothing. ``id`` counts a program's transactions from 1;
    their batches' sequences are not used. All of it is done at ``origin``; ``instance`` is the
    program's run where a node asks on its behalf, ``tag`` what the answer is known by."""

    id: int
    acks: tuple[TransactAck, ...]
    batches: tuple[PublishBatch, ...]
    payload: bytes
    origin: bytes = b""
    instance: bytes = b""
    tag: int = 0


@dataclass(frozen=True, slots=True)
class Transacted:
    id: int
    code: str = ""
    message: str = ""
    offsets: tuple[int, ...] = ()
    topic_keys: tuple[int, ...] = ()
    origin: bytes = b""
    tag: int = 0


ONE, EACH, STREAM = range(3)
"""What a request wants: one reply; one of each instance there is; a stream of replies of one."""


@dataclass(frozen=True, slots=True)
class Serve:
    """Register an instance of a service that takes ``concurrency`` requests at a time."""

    registration: int
    service: str
    concurrency: int


@dataclass(frozen=True, slots=True)
class Served:
    """The answer to Serve, or with ``ended`` to Unserve: no request comes behind it."""

    registration: int
    code: str = ""
    message: str = ""
    ended: bool = False


@dataclass(frozen=True, slots=True)
class Unserve:
    registration: int


class RequestRow(NamedTuple):
    """One request; ``length`` bytes of the frame's payload are its value.

    Attributes:
        id: the sender's number for it; replies carry it.
        registration: towards an instance: which of its registrations it is for.
        service: towards a node.
        remaining_ns: until its deadline, from when the frame was sent.
        kind: ONE, EACH or STREAM.
        idempotent: it may be handed to another instance where one was lost.
        window: bytes of a stream that may come before the next Grant.
        headers: encoded, or empty.
    """

    id: int
    registration: int
    service: str
    remaining_ns: int
    kind: int
    idempotent: bool
    window: int
    headers: bytes
    length: int


@dataclass(frozen=True, slots=True)
class Request:
    rows: tuple[RequestRow, ...]
    payload: bytes


class ReplyRow(NamedTuple):
    """One answer to a request; ``length`` bytes of the frame's payload are its value.

    Attributes:
        id: as in the request.
        end: nothing more comes for it.
        code: empty, or an error's; ``detail`` then is the code that a service chose itself.
        instance: the name of who answered.
    """

    id: int
    has_value: bool
    end: bool
    code: str = ""
    detail: str = ""
    message: str = ""
    instance: str = ""
    length: int = 0


@dataclass(frozen=True, slots=True)
class Reply:
    rows: tuple[ReplyRow, ...]
    payload: bytes


RETURNED = "returned"
"""Code of a reply: the instance has not begun the request and will not."""


@dataclass(frozen=True, slots=True)
class Cancel:
    """Nobody waits for these requests any more."""

    ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Grant:
    """More bytes of a stream may come."""

    id: int
    bytes: int


SUBSCRIPTION, PULL, SERVICE = range(3)
"""What a program may be interested in."""


class Interest(NamedTuple):
    """One interest of a program: a pattern, or the name of a service that it serves.

    Attributes:
        number: the program's own for it.
        kind: SUBSCRIPTION, PULL or SERVICE.
        concurrency: of a service.
    """

    number: int
    kind: int
    name: str
    concurrency: int = 0


@dataclass(frozen=True, slots=True)
class Interests:
    """What a program is interested in, for another: all (``whole``), or what has changed.
    ``node`` is the origin of the node that it is at, or empty."""

    version: int
    whole: bool
    add: tuple[Interest, ...] = ()
    remove: tuple[int, ...] = ()
    node: bytes = b""


class NotedRow(NamedTuple):
    """Where a topic goes on directly: the number of the next record. Those from ``unsure`` on went
    to the node, which has not said yet whether it keeps them; 0: there are none of these."""

    topic: str
    next: int
    unsure: int = 0


@dataclass(frozen=True, slots=True)
class Noted:
    """The answer to Interests: where each topic that they match goes on. Topics that are not among
    the rows begin with 1."""

    version: int
    whole: bool
    rows: tuple[NotedRow, ...] = ()
    more: bool = False


Body = (
    Hello | Welcome | Refuse | Nothing | Gap | Ping | Bye | Publish | Confirm | Subscribe
    | Subscribed | Unsubscribe | Credit | Deliver | Command | Result | Window | Consume | Consumed
    | HandOut | Settle | Settled | Revoke | Leave | Transact | Transacted | Serve | Served
    | Unserve | Request | Reply | Cancel | Grant | Interests | Noted | Routes | Wanted | Introduce
    | Known | SiteInterests | Pulse | Streams | Offers | WorkReady | Lend | Lent | Owner
    | DirectoryFrame | Drained | frames_copies.Body | frames_site_words.Body
)  # fmt: skip

WITH_PAYLOAD = (Publish, Deliver, HandOut, Transact, Request, Reply, frames_copies.Fetched)
"""Bodies whose batches' or values' bytes travel in a part of their own."""


@dataclass(frozen=True, slots=True)
class Envelope:
    """A body with the session's numbers round it.

    Attributes:
        session: 64-bit number chosen by the end that said hello.
        sequence: place in the reliable order of this direction, from 1; 0 is outside of it.
        ack: every sequence of the other direction up to this one has arrived.
    """

    session: int
    sequence: int
    ack: int
    body: Body
