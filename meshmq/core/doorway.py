"""Whether a node lets a program in."""

from __future__ import annotations

from meshmq import limits
from meshmq.frames import PROTOCOL_MAJOR, PROTOCOL_MINOR, Hello, Refuse


def judge_client(hello: Hello, mesh: str, sessions: int) -> Refuse | None:
    """Why a program gets no session at a node of ``mesh`` that has so many; None: it does."""
    if hello.major != PROTOCOL_MAJOR:
        return Refuse(
            "version-mismatch",
            f"the node speaks protocol {PROTOCOL_MAJOR}.{PROTOCOL_MINOR}, the client "
            f"{hello.major}.{hello.minor}: install the same major version on both",
        )
    if hello.mesh != mesh:
        return Refuse(
            "mesh-mismatch",
            f"the node belongs to mesh {mesh!r}, the client asks for {hello.mesh!r}: "
            f"mesh={mesh!r} of connect, --mesh of commands",
        )
    if sessions >= limits.SESSIONS_MAX:
        return Refuse("busy", f"the node has {limits.SESSIONS_MAX} sessions, its limit")
    return None
