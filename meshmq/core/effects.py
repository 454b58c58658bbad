"""What to do: orders that a machine gives to the shell, or to the simulator."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from meshmq.core.held import Held
from meshmq.core.log import Entry
from meshmq.core.requester import Call
from meshmq.core.responder import Incoming, Registration
from meshmq.frames import Envelope, Payload, Place


@dataclass(frozen=True, slots=True)
class Send:
    """Send one frame over ``link``; it may be lost."""

    link: bytes
    envelope: Envelope


@dataclass(frozen=True, slots=True)
class CloseLink:
    """Forget ``link``; a client opens another after ``reopen_after_ns`` (negative: never).

    Attributes:
        address: where; empty: where the last one was.
        is_one_of: there are others: that nobody listens there is to be told, as LinkClosed.
        lingers: what was sent may still leave.
    """

    link: bytes
    reopen_after_ns: int = -1
    address: str = ""
    is_one_of: bool = False
    lingers: bool = False


@dataclass(frozen=True, slots=True)
class OpenLink:
    """Connect to another program at ``address``; what is sent over ``link`` goes there."""

    link: bytes
    address: str


@dataclass(frozen=True, slots=True)
class FoundNode:
    """A node answers at ``address``: open a link to it, now and where one is to be opened again."""

    address: str


@dataclass(frozen=True, slots=True)
class Append:
    """Add entries to the log and sync; tickets count up from 1 and are committed in order."""

    ticket: int
    entries: tuple[Entry, ...]


@dataclass(frozen=True, slots=True)
class ReadLog:
    """Read batches for one subscriber, answered by ReadDone.

    Attributes:
        reader: number to answer with.
        streams: aliases wanted. Of one the index is used, of several the log in arrival order.
        start: a place: ``("position", lsn, slot)``, ``("time", unix_ns, 0)``: the first commit not
            older, or ``("offset", offset, 0)``: the batch that holds it (exactly one stream);
            ``"fresh"``: the same, with nothing that is in memory from reads before.
        end_lsn: last commit to read.
        bytes_max: stop after about so many payload bytes, at least one batch.
        origin: read what is copied of this node's log: all places are there, ``end_lsn`` is the end
            of the copy, and where to go on is BEHIND_ALL when that was reached. Empty: the node's
            own.
    """

    reader: int
    streams: frozenset[int]
    start: tuple[str, int, int]
    end_lsn: int
    bytes_max: int
    origin: bytes = b""


@dataclass(frozen=True, slots=True)
class PlanRetention:
    """Find what is over its topic's age or bytes (RetentionPlanned); unlink what nobody needs."""


@dataclass(frozen=True, slots=True)
class SurveyLog:
    """Say where streams are (Surveyed).

    Attributes:
        number: to answer with.
        floors: (stream, offset): how many bytes it holds from there on.
        time_ns: not None: from its first commit not older than this (unix ns) on, instead.
        place: not None: from its first batch not before this (lsn, slot) on, instead.
    """

    number: int
    floors: tuple[tuple[int, int], ...]
    time_ns: int | None
    place: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class MendLog:
    """Write the bytes of a damaged batch in its place, where that is possible; not answered.

    Attributes:
        stream, offset, count: which one.
        payload: its bytes, with the checksum that it has.
    """

    stream: int
    offset: int
    count: int
    payload: bytes


NodeEffect = Send | CloseLink | OpenLink | Append | ReadLog | PlanRetention | SurveyLog | MendLog


# --- what a client's machine tells the program ---------------------------------------------


@dataclass(frozen=True, slots=True)
class StateChanged:
    """The client is now ``connecting``, ``connected``, ``reconnecting`` or ``closed``, or has news
    in that state. ``is_warning``: somebody should see to it."""

    state: str
    reason: str
    code: str = ""
    is_warning: bool = False


class Arrival(NamedTuple):
    """One batch for the program; the first ``skip`` records are not for it. lsn 0: transient.

    ``others``: where reading goes on in other logs, as of this batch; those that have no place are
    read from ``since`` (unix ns) on. ``site``: whose log it is in; empty: of no site.
    """

    topic: str
    base_offset: int
    count: int  # type: ignore[assignment]  # hides tuple.count, which nobody needs
    skip: int
    payload: Payload
    checksum: int
    append_time_ns: int
    origin: bytes
    lsn: int
    slot: int
    since: int = 0
    others: tuple[Place, ...] = ()
    site: str = ""


@dataclass(frozen=True, slots=True)
class Arrived:
    """Batches for subscription ``subscription``; records passed over so far in ``missed``, those
    of them whose stored bytes are damaged in ``damaged``."""

    subscription: int
    arrivals: tuple[Arrival, ...]
    missed: int
    damaged: int


@dataclass(frozen=True, slots=True)
class SubscriptionAnswered:
    """The node accepted (code empty) or refused a subscription."""

    subscription: int
    code: str
    message: str
    topics: int


@dataclass(frozen=True, slots=True)
class CommandAnswered:
    """The answer to an admin command; ``code`` empty means done."""

    id: int
    code: str
    message: str
    body: bytes


@dataclass(frozen=True, slots=True)
class ConsumerAnswered:
    """The node let a consumer in (code empty), or it is no longer in its group."""

    consumer: int
    code: str
    message: str


@dataclass(frozen=True, slots=True)
class HandedOut:
    """There may be more in the consumer's queue for the program."""

    consumer: int


@dataclass(frozen=True, slots=True)
class SettlesAnswered:
    """Of these hand-outs records were closed: what was settled is on disk or was refused."""

    consumer: int
    held: tuple[Held, ...]


@dataclass(frozen=True, slots=True)
class TransactionAnswered:
    """The answer to a transaction; ``code`` empty: all of it was done, in the log ``origin``, else
    nothing."""

    id: int
    code: str
    message: str
    offsets: tuple[int, ...]
    topic_keys: tuple[int, ...] = ()
    origin: bytes = b""


@dataclass(frozen=True, slots=True)
class CallsAnswered:
    """These calls are over or have got something."""

    calls: tuple[Call, ...]


@dataclass(frozen=True, slots=True)
class ServiceAnswered:
    """The node lets an instance in (code empty) or does not, or it is no longer one."""

    registration: Registration
    code: str
    message: str


@dataclass(frozen=True, slots=True)
class RequestsCame:
    """These registrations have something new for the program."""

    registrations: tuple[Registration, ...]


@dataclass(frozen=True, slots=True)
class RequestsStopped:
    """Nobody waits any more for these, which the program works on."""

    requests: tuple[Incoming, ...]


ClientEffect = (
    Send | CloseLink | OpenLink | FoundNode | StateChanged | Arrived | SubscriptionAnswered
    | CommandAnswered | ConsumerAnswered | HandedOut | SettlesAnswered | TransactionAnswered
    | CallsAnswered | ServiceAnswered | RequestsCame | RequestsStopped
)  # fmt: skip
