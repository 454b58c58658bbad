"""What ``connect`` was asked, checked, and the connection that follows from it."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import NamedTuple

import meshmq
from meshmq import limits
from meshmq.client.connection import Connection
from meshmq.client.direct import DirectConnection
from meshmq.client.values import is_text
from meshmq.core.client import ClientIdentity
from meshmq.core.hints import LOCAL_MESH
from meshmq.core.moving import Moving
from meshmq.errors import InvalidArgument, NodeUnreachable
from meshmq.names import check_mesh, producer_of
from meshmq.shell import clock
from meshmq.shell.sockets import check_url

DEFAULT_URL = "tcp://127.0.0.1:5757"
ANY_PORT = "tcp://127.0.0.1:*"
ANY_PORT_EVERYWHERE = "tcp://0.0.0.0:*"


def is_named(connection: Connection, producer: str | None) -> bool:
    """Whether a node knows this producer over several runs."""
    if producer is None:
        return False
    return not isinstance(connection, DirectConnection) or connection.client.had_node


class Where(NamedTuple):
    """With whom a program is to talk, and how: see ``connect``."""

    url: str | Sequence[str] | None
    peers: Sequence[str] | None
    listen: str | Sequence[str] | None
    route: str
    on_node_loss: str = "move"
    direct_reads: bool = True
    admin: bool = False

    @property
    def is_alone(self) -> bool:
        """Whether nobody is named."""
        return self.url is None and self.peers is None and self.listen is None

    @property
    def targets(self) -> tuple[str, ...]:
        """The node that is named, or several, of which one is enough; or none."""
        if self.url is not None or self.peers is not None or self.route == "direct":
            found = self.url or ()
        else:
            found = os.environ.get("MESHMQ_URL", "")
        if isinstance(found, str):
            found = [text.strip() for text in found.split(",")]
        return check_addresses("url", [text for text in found if text])

    @property
    def stays(self) -> bool:
        """Whether the program waits for the node that it has lost."""
        return self.on_node_loss == "wait"

    @property
    def talks_directly(self) -> bool:
        """Whether other programs are dialled; raises InvalidArgument for what does not go
        together."""
        if self.route not in ("auto", "node", "direct"):
            raise InvalidArgument(f"route is 'auto', 'node' or 'direct', not {self.route!r}")
        if self.route == "node" and not (self.peers is None and self.listen is None):
            raise InvalidArgument("peers and listen are for what does not go by a node: not both")
        if self.route == "direct" and self.url is not None:
            raise InvalidArgument("route='direct' does without nodes: give no url")
        return self.route != "node"


class Who(NamedTuple):
    """What a connection says of itself: see ``connect``."""

    mesh: str
    producer: str | None
    name: str | None
    insecure: bool

    def identity(self, admin: bool) -> ClientIdentity:
        """For the handshake."""
        if self.producer is None:
            producer = clock.instance_id()
        else:
            producer = producer_of(self.mesh, self.producer)
        return ClientIdentity(
            self.mesh, clock.instance_id(), producer, self.name or clock.program_name(),
            f"meshmq {meshmq.__version__}", admin,
        )  # fmt: skip

    def moving(self, urls: Sequence[str], where: Where) -> Moving:
        """What knows where to find a node."""
        return Moving(urls, clock.entropy(), self.mesh, self.insecure, where.stays)


def prepare(
    urls: Sequence[str],
    who: Who,
    where: Where,
    on_state: Callable[[str, str], None] | None,
    hands_over: bool = False,
) -> Connection:
    """A connection to a node, one of these, not yet started."""
    check_mesh(who.mesh)
    for url in urls:
        check_url(url, bind=False, insecure=who.insecure, mesh=who.mesh)
    moving = who.moving(urls, where)
    connection = Connection(urls[0], who.identity(where.admin), on_state, hands_over, moving)
    connection.client.reads.is_on = where.direct_reads
    return connection


def prepare_direct(
    who: Who,
    on_state: Callable[[str, str], None] | None,
    where: Where,
    hands_over: bool = False,
) -> DirectConnection:
    """A connection to other programs, and to a node if there is one; not yet started."""
    check_mesh(who.mesh)
    listen = where.listen
    dialled = check_addresses("peers", where.peers or ())
    bound = check_addresses("listen", [listen] if isinstance(listen, str) else listen or ())
    nodes = where.targets
    for address in (*dialled, *bound, *nodes):
        check_url(address, bind=address in bound, insecure=who.insecure, mesh=who.mesh)
    looks = not (nodes or dialled or bound)
    default = DEFAULT_URL if where.is_alone and looks and where.route == "auto" else ""
    if not bound:
        # Others find us where mDNS is spoken, which is everywhere then, or by a node out there.
        is_far = looks or any(not is_here(node) for node in nodes)
        is_everywhere = is_far and who.insecure and who.mesh != LOCAL_MESH
        bound = (ANY_PORT_EVERYWHERE if is_everywhere else ANY_PORT,)
    connection = DirectConnection(
        bound, dialled, who.identity(where.admin), on_state, hands_over, who.insecure, looks,
        who.moving(nodes, where), default, where.route == "auto",
    )  # fmt: skip
    connection.client.reads.is_on = where.direct_reads
    return connection


def check_addresses(what: str, addresses: object) -> tuple[str, ...]:
    """The addresses of ``peers`` or ``listen``; raises InvalidArgument."""
    if isinstance(addresses, str) or not isinstance(addresses, Sequence):
        raise InvalidArgument(f"{what} is a list of addresses, not {addresses!r}")
    for address in addresses:
        if not isinstance(address, str) or not is_text(address):
            raise InvalidArgument(f"{what} is a list of addresses, {address!r} is none")
    if len(addresses) > limits.LISTED_ADDRESSES_MAX:
        raise InvalidArgument(
            f"{what} has at most {limits.LISTED_ADDRESSES_MAX} addresses, not {len(addresses)}"
        )
    return tuple(addresses)


def check_options(
    where: Where,
    producer: object,
    name: object,
    timeout: object,
    max_buffer: object,
    on_full: object,
    on_state: object,
) -> None:
    """Raise InvalidArgument for what ``connect`` does not take."""
    if where.on_node_loss not in ("move", "wait"):
        raise InvalidArgument(f"on_node_loss is 'move' or 'wait', not {where.on_node_loss!r}")
    if not isinstance(where.url, str | None):
        check_addresses("url", where.url)
        if not where.url:
            raise InvalidArgument("url is an address, or a list of them: there must be one")
    if not isinstance(where.direct_reads, bool):
        raise InvalidArgument(f"direct_reads is True or False, not {where.direct_reads!r}")
    if not isinstance(where.admin, bool):
        raise InvalidArgument(f"admin is True or False, not {where.admin!r}")
    url = where.url if isinstance(where.url, str) else None
    for what, text in (("url", url), ("producer", producer), ("name", name)):
        if not (text is None or isinstance(text, str)):
            raise InvalidArgument(f"{what} is a text or None, not {text!r}")
        if text is not None and not is_text(text):
            raise InvalidArgument(f"{what} is no text that can be sent: {text!r}")
    if producer == "":
        raise InvalidArgument("producer is a name, or None: not an empty text")
    if name is not None and len(str(name)) > limits.PEER_NAME_MAX:
        raise InvalidArgument(
            f"name has at most {limits.PEER_NAME_MAX} characters, not {len(str(name))}"
        )
    if not isinstance(timeout, int | float) or isinstance(timeout, bool) or not timeout >= 0:
        raise InvalidArgument(f"timeout is a number of seconds, not {timeout!r}")
    if on_full not in ("block", "fail"):
        raise InvalidArgument(f"on_full is 'block' or 'fail', not {on_full!r}")
    least = 2 * limits.BATCH_BYTES_MAX
    if not isinstance(max_buffer, int) or isinstance(max_buffer, bool) or max_buffer < least:
        raise InvalidArgument(f"max_buffer is a number of bytes from {least}, not {max_buffer!r}")
    if on_state is not None and not callable(on_state):
        raise InvalidArgument(f"on_state is a function of a StateChange, not {on_state!r}")


def node_command(url: str) -> str:
    """What starts a node there, as far as it can be said: on another host only that it is one."""
    return f"meshmq node --listen {url}" if is_here(url) and url != DEFAULT_URL else "meshmq node"


def is_here(url: str) -> bool:
    """Whether an address is on this host, as far as it shows."""
    return url.startswith(("tcp://127.", "tcp://localhost:", "tcp://[::1]:", "ipc://"))


def check_greeted(connection: Connection) -> None:
    """Raise unless a node has answered, and has let us in, or it does without one."""
    if not connection.is_greeted:
        if isinstance(connection, DirectConnection) and connection.stop_looking():
            return
        connection.close(1.0)
        if connection.client.refused is not None:
            raise connection.client.refused
        urls = connection.client.moving.given or (connection.url,)
        raise NodeUnreachable(
            f"no node answers at {' or '.join(urls)}: start one with `{node_command(urls[0])}`, or "
            f"say where it is "
            f"with --url (connect(url=...), MESHMQ_URL)"
        )
    if connection.dead is not None:
        connection.close(1.0)
        raise connection.dead
