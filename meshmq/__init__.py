"""meshmq: a messaging mesh that starts with no broker and grows into one.

``import meshmq; mesh = meshmq.connect()``. See the README and docs/.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from meshmq.errors import *  # noqa: F403
from meshmq.errors import MeshError
from meshmq.names import Position, Stream

if TYPE_CHECKING:
    from meshmq import aio as aio
    from meshmq.client.consumer import Consumer
    from meshmq.client.dead_letters import DeadLetter
    from meshmq.client.job import Job
    from meshmq.client.mesh import Mesh, StateChange, connect
    from meshmq.client.message import Message
    from meshmq.client.pending import PendingReply
    from meshmq.client.receipt import Receipt
    from meshmq.client.requests import Replies, Reply, Request
    from meshmq.client.services import Instance, ReplyStream
    from meshmq.client.subscription import Subscription
    from meshmq.client.transaction import Transaction
    from meshmq.client.worker import Worker

__version__ = "0.1.0"

# The client needs libzmq and capnp (100 ms to import); names and errors do not.
_LAZY = {
    "Consumer": "meshmq.client.consumer",
    "DeadLetter": "meshmq.client.dead_letters",
    "Instance": "meshmq.client.services",
    "Job": "meshmq.client.job",
    "Mesh": "meshmq.client.mesh",
    "Message": "meshmq.client.message",
    "PendingReply": "meshmq.client.pending",
    "Receipt": "meshmq.client.receipt",
    "Replies": "meshmq.client.requests",
    "Reply": "meshmq.client.requests",
    "ReplyStream": "meshmq.client.services",
    "Request": "meshmq.client.requests",
    "StateChange": "meshmq.client.mesh",
    "Subscription": "meshmq.client.subscription",
    "Transaction": "meshmq.client.transaction",
    "Worker": "meshmq.client.worker",
    "connect": "meshmq.client.mesh",
}

__all__ = [
    "Consumer", "DeadLetter", "Instance", "Job", "Mesh", "MeshError", "Message", "PendingReply",
    "Position", "Receipt", "Replies", "Reply", "ReplyStream", "Request", "StateChange", "Stream",
    "Subscription", "Transaction", "Worker", "connect",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name == "aio":  # the submodule, for programs that import only meshmq
        from importlib import import_module

        return import_module("meshmq.aio")
    module = _LAZY.get(name)
    if module is None:
        raise AttributeError(f"module 'meshmq' has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(module), name)
    globals()[name] = value
    return value
