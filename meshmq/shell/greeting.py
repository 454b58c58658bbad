"""One dial, step by step: does somebody listen, is it ZeroMQ, is it a node, does it let us in.

Blocking, for looking for nodes and for the doctor; links of programs are made by the client.
"""

from __future__ import annotations

import contextlib
import select
import socket
from dataclasses import dataclass
from urllib.parse import urlsplit

import meshmq
from meshmq import codec, limits
from meshmq.core.session import Session
from meshmq.errors import BadFrame, ConfigError, MeshMismatch, VersionMismatch
from meshmq.frames import PROTOCOL_MAJOR, PROTOCOL_MINOR, Hello, PeerFacts, Refuse, Welcome
from meshmq.shell import clock
from meshmq.shell.sockets import ClientSocket

ANSWERS, REFUSED, UNREACHABLE, UNKNOWN_HOST = "answers", "refused", "unreachable", "unknown-host"
TIMED_OUT, FOREIGN, SILENT, NOT_ALLOWED = "timed-out", "foreign", "silent", "not-allowed"
MESH_MISMATCH, VERSION_MISMATCH = MeshMismatch.code, VersionMismatch.code

_SIGNATURE_BYTES = 10  # what ZeroMQ says first, by itself: 0xff, 8 bytes, 0x7f


@dataclass(frozen=True, slots=True)
class Greeting:
    """What came of a dial.

    Attributes:
        address: that was dialled.
        outcome: ``answers``; ``unknown-host``, ``unreachable``, ``refused`` or ``timed-out``:
            nobody listens; ``foreign``: somebody who does not speak ZeroMQ; ``silent``: who took
            the connection and said nothing; ``not-allowed``: a socket's path that we may not
            open; or the code of the refusal, ``mesh-mismatch`` and ``version-mismatch`` among them.
        message: the refusal's, or the system's words.
        facts: of who answered.
        seconds: that it took.
    """

    address: str
    outcome: str
    message: str = ""
    facts: PeerFacts | None = None
    seconds: float = 0.0


def greet(
    address: str, mesh: str, timeout: float = 2.0, name: str | None = None, admin: bool = False
) -> Greeting:
    """Dial ``address``, shake hands as a client called ``name``, and say goodbye.

    Takes ``timeout`` seconds at most, a look-up of a host's name apart; raises nothing.
    ``admin``: we will only ask, so a node that drains answers too.
    """
    began = clock.now_ns()
    deadline = began + int(timeout * limits.SECOND)
    outcome, message = _knock(address, deadline)
    facts = None
    if not outcome:
        try:
            outcome, message, facts = _shake_hands(address, mesh, deadline, name, admin)
        except (ConfigError, OSError) as error:
            outcome, message = UNREACHABLE, str(error)
    return Greeting(address, outcome, message, facts, (clock.now_ns() - began) / limits.SECOND)


def is_open(address: str, timeout: float = 0.1) -> bool:
    """Whether somebody listens at ``address``, or it is too early to say no."""
    outcome, _ = _knock(address, clock.now_ns() + int(timeout * limits.SECOND), listen=False)
    return outcome in ("", TIMED_OUT)


def _left(deadline: int) -> float:
    return max(0.001, (deadline - clock.now_ns()) / limits.SECOND)


def _knock(address: str, deadline: int, listen: bool = True) -> tuple[str, str]:
    """Connect and hear how it begins: an outcome with its words, or two empty ones."""
    said = None
    try:
        with _connect(address, _left(deadline)) as link:
            if not listen:
                return "", ""
            said = b""
            while len(said) < _SIGNATURE_BYTES:
                link.settimeout(_left(deadline))
                more = link.recv(_SIGNATURE_BYTES - len(said))
                if not more:
                    return FOREIGN, "it closed the connection"
                said += more
    except socket.gaierror as error:
        return UNKNOWN_HOST, error.strerror or str(error)
    except ConnectionRefusedError:
        return REFUSED, ""
    except FileNotFoundError:
        return REFUSED, "the socket's path is not there"
    except PermissionError as error:
        return NOT_ALLOWED, error.strerror or str(error)
    except TimeoutError:
        return (TIMED_OUT if said is None else SILENT), ""
    except ConnectionResetError:
        return FOREIGN, "it closed the connection"
    except (OSError, ValueError) as error:
        return UNREACHABLE, getattr(error, "strerror", None) or str(error)
    if said[0] != 0xFF or said[9] != 0x7F:
        return FOREIGN, f"it began with {said!r}"
    return "", ""


def _connect(address: str, timeout: float) -> socket.socket:
    if address.startswith("ipc://"):
        link = socket.socket(socket.AF_UNIX)
        try:
            link.settimeout(timeout)
            link.connect(address.removeprefix("ipc://"))
        except BaseException:
            link.close()
            raise
        return link
    parts = urlsplit(address)
    return socket.create_connection((parts.hostname or "", parts.port or 0), timeout)


def _shake_hands(
    address: str, mesh: str, deadline: int, name: str | None, admin: bool
) -> tuple[str, str, PeerFacts | None]:
    hello = Hello(
        PROTOCOL_MAJOR, PROTOCOL_MINOR, mesh, clock.instance_id(), clock.instance_id(),
        name or clock.program_name(), f"meshmq {meshmq.__version__}", admin=admin,
    )  # fmt: skip
    session = Session(clock.entropy().getrandbits(64), hello, clock.now_ns())
    link = ClientSocket(address)
    try:
        link.open()
        while clock.now_ns() < deadline:
            for envelope in session.outbox:
                link.send(codec.encode(envelope))
            session.outbox.clear()
            body = _receive(link, session, deadline)
            if isinstance(body, Welcome):
                session.say_goodbye(clock.now_ns())
                for envelope in session.outbox:
                    link.send(codec.encode(envelope))
                link.shut(linger_ms=100)
                facts = PeerFacts(
                    body.origin, "node", mesh, body.name, body.major, body.minor, (address,)
                )
                return ANSWERS, "", facts
            if isinstance(body, Refuse):
                return body.code, body.message, None
            session.tick(clock.now_ns())
        return SILENT, "", None
    finally:
        link.shut()  # what was not sent is not waited for
        link.close()


def _receive(link: ClientSocket, session: Session, deadline: int) -> object:
    """The next body of the session, None if there was none for a while."""
    if not link.has_input():
        wait = min(_left(deadline), (session.next_deadline_ns() - clock.now_ns()) / limits.SECOND)
        select.select(link.fds, (), (), max(0.001, wait))
    body = None
    while body is None and link.has_input():
        with contextlib.suppress(BadFrame):
            body = session.receive(codec.decode(link.receive()), clock.now_ns())
    return body
