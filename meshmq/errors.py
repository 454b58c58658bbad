"""What can go wrong, as one tree.

Every error answers the question a messaging user has: was it applied? ``outcome`` is ``"not done"``
(certainly not applied: resending is a new attempt), ``"unknown"`` (it may have been applied: a
retry with the same producer and sequence is safe, a retry as a new record may double it) or
``"done"`` (it is applied, only not as durably as was asked for: a retry doubles it). An error may
have another outcome than its class, where more is known.
``code`` is a stable word, the same on the wire, in ``--json`` output and here.

    MeshError
    ├── ConfigError              a setting is wrong
    ├── InvalidName              a topic, pattern or mesh name is not well formed
    ├── InvalidArgument          a call's arguments contradict each other or a limit
    ├── MessageTooLarge          a value, key or header set is over its limit
    ├── ForkedError              the connection was made in another process
    ├── ClosedError              the connection or subscription was closed
    ├── ProtocolError            the peer broke the protocol
    │   ├── BadFrame             bytes that are not a frame
    │   ├── VersionMismatch      the peer speaks another protocol major
    │   └── MeshMismatch         the peer belongs to another mesh
    ├── StoreError               the node's log
    │   ├── StoreBusy            another process has the data directory
    │   ├── StoreFailed          a write or a sync failed: nothing is known of it
    │   ├── StoreDamaged         stored bytes fail their checksum
    │   ├── StorageFull          no room left
    │   └── LogBehind            the node's log is an older state of its disk
    └── OperationError           a call could not be done
        ├── NodeUnreachable      no node answered
        ├── LinkLost             the link went away with the work under way
        ├── DeadlineExceeded     no answer in time
        ├── DurabilityTimeout    stored, but not yet as durable as asked for
        ├── BufferFull           the client's own buffer is full
        ├── Busy                 the node is over its budget
        ├── LimitReached         a bound of the node: topics, subscriptions of one connection
        ├── BatchRefused         the node found the batch malformed
        ├── SequenceGap          an earlier batch of this producer was refused
        ├── ProducerUnknown      the node no longer knows this producer
        ├── ProducerFenced       another program took this producer name over
        ├── OffsetOutOfRange     the offset asked for does not exist yet
        ├── TopicNotFound        no such topic
        ├── DurabilityUnavailable  the topic or this rung cannot give what was asked for
        ├── GroupNotFound        no such group or queue
        ├── GroupMismatch        the group exists with another pattern, order or kind
        ├── QueueFull            the queue has as many jobs as it may
        ├── StaleDelivery        the record is no longer this member's to settle
        ├── JobNotFound          no such job, or it is done or under way
        ├── TransactionFailed    nothing of the transaction was done
        ├── NoResponders         nobody serves this service
        ├── ServiceError         the service answered with an error of its own
        ├── OwnerAway            the node that it belongs to is away
        ├── NodeDrains           the node is to end, and takes nobody in
        ├── InstanceLost         who had the request went away before it had answered
        └── CommandFailed        the node could not carry out an admin command
"""

from __future__ import annotations

NOT_DONE = "not done"
UNKNOWN = "unknown"
DONE = "done"


class MeshError(Exception):
    """Base of every error meshmq raises on purpose."""

    code = "error"
    outcome = NOT_DONE
    told = False  # whether a receipt has raised it: then flush and close need not


class ConfigError(MeshError):
    code = "config"


class InvalidName(MeshError, ValueError):
    code = "invalid-name"


class InvalidArgument(MeshError, ValueError):
    code = "invalid-argument"


class MessageTooLarge(MeshError, ValueError):
    code = "message-too-large"


class ForkedError(MeshError):
    code = "forked"


class ClosedError(MeshError):
    code = "closed"


class ProtocolError(MeshError):
    code = "protocol"


class BadFrame(ProtocolError):
    code = "bad-frame"


class VersionMismatch(ProtocolError):
    code = "version-mismatch"


class MeshMismatch(ProtocolError):
    code = "mesh-mismatch"


class StoreError(MeshError):
    code = "store"


class StoreBusy(StoreError):
    code = "store-busy"


class StoreFailed(StoreError):
    code = "store-failed"
    outcome = UNKNOWN


class StoreDamaged(StoreError):
    code = "store-damaged"


class StorageFull(StoreError):
    code = "storage-full"


class LogBehind(StoreError):
    code = "log-behind"


class OperationError(MeshError):
    code = "operation"


class NodeUnreachable(OperationError):
    code = "node-unreachable"


class LinkLost(OperationError):
    code = "link-lost"
    outcome = UNKNOWN


class DeadlineExceeded(OperationError, TimeoutError):
    code = "deadline-exceeded"
    outcome = UNKNOWN


class DurabilityTimeout(OperationError, TimeoutError):
    """The record is stored, but the durability asked for was not reached in time.

    ``receipt`` says what was reached; of what ``flush`` and ``close`` raise it is None, as that is
    of several. Do not resend.
    """

    code = "durability-timeout"
    outcome = DONE

    def __init__(self, message: str, receipt: object = None) -> None:
        super().__init__(message)
        self.receipt = receipt


class BufferFull(OperationError):
    code = "buffer-full"


class Busy(OperationError):
    code = "busy"


class LimitReached(OperationError):
    code = "limit"


class BatchRefused(OperationError):
    code = "batch-refused"


class SequenceGap(OperationError):
    code = "sequence-gap"


class ProducerUnknown(OperationError):
    code = "producer-unknown"
    outcome = UNKNOWN


class ProducerFenced(OperationError):
    code = "producer-fenced"
    outcome = UNKNOWN


class OffsetOutOfRange(OperationError):
    code = "offset-out-of-range"


class TopicNotFound(OperationError):
    code = "topic-not-found"


class DurabilityUnavailable(OperationError):
    code = "durability-unavailable"


class GroupNotFound(OperationError):
    code = "group-not-found"


class GroupMismatch(OperationError):
    code = "group-mismatch"


class QueueFull(OperationError):
    code = "queue-full"


class StaleDelivery(OperationError):
    """The record was handed to another member meanwhile, or is settled already."""

    code = "stale-delivery"


class JobNotFound(OperationError):
    code = "job-not-found"


class OwnerAway(OperationError):
    """The node that has it in its log cannot be reached."""

    code = "owner-away"


class TransactionFailed(OperationError):
    code = "transaction-failed"


class NoResponders(OperationError):
    """Nobody serves it now: neither anybody was asked nor will be."""

    code = "no-responders"


class ServiceError(OperationError):
    """A service's own answer: no.

    A handler raises it to answer with a code and a text of its own; any other exception of a
    handler becomes one with the code ``"handler-failed"``. ``code`` is the service's.
    """

    code = "service-error"
    outcome = UNKNOWN

    def __init__(self, text: str, code: str = "service-error") -> None:
        super().__init__(text)
        self.code = code


class InstanceLost(OperationError):
    code = "instance-lost"
    outcome = UNKNOWN


class NodeDrains(OperationError):
    code = "draining"


class CommandFailed(OperationError):
    code = "command-failed"


def _collect(base: type[MeshError]) -> dict[str, type[MeshError]]:
    found = {base.code: base}
    for sub in base.__subclasses__():
        found.update(_collect(sub))
    return found


BY_CODE: dict[str, type[MeshError]] = _collect(MeshError)
"""Error class by its stable code, to raise what a peer reported."""


def from_code(code: str, message: str) -> MeshError:
    """The error a peer named by ``code``; an unknown code is an OperationError."""
    return BY_CODE.get(code, OperationError)(message)
