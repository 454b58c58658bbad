"""What a node says of itself: every counter there is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from meshmq import limits
from meshmq.core.site_problems import problems

if TYPE_CHECKING:
    from meshmq.core.node import Node


def describe(node: Node) -> dict[str, Any]:
    """As ``status`` shows it."""
    streams, delivery = node.streams, node.delivery
    opened, refused = node.sessions_opened, node.refused_sessions
    readers = sum([peer.hello.reads for peer in node.peers.values()])

    def name_of(link: bytes) -> str:
        return node.peers[link].hello.name if link in node.peers else ""

    site = None if node.site is None else node.site.describe(node._now_ns)
    directory = {} if node.registrar is None else node.registrar.describe()
    me = {"name": node.name, "mesh": node.mesh, "origin": node.origin.hex()}
    return {
        "node": {**me, "software": node.software},
        "state": _state(node),
        "drain": node.drain.describe(),
        "problems": [] if site is None else problems(node.name, site, directory),
        "unsynced_bytes": node.admission.waiting_bytes,
        "undelivered_bytes": node.sessions.unacked_bytes + delivery.queued_bytes,
        "published": streams.published,
        "confirmed": streams.confirmed,
        "repeated": streams.repeated,
        "refused": dict(streams.refused),
        "delivered": delivery.delivered,
        "drops": {"subscription-queue-full": delivery.dropped, "damaged": delivery.damaged},
        "damage": delivery.describe_damage(node.origin),
        "topics": sum([not name.startswith("$") for name in node.topics.by_name]),
        "groups": node._desk.clerk.list({})["groups"],
        "services": node.services.describe(node._now_ns),
        "requests": node.services.counters(),
        "bad_frames": node.bad_frames,
        "sessions": {
            "open": len(node.peers),
            "opened": opened,
            "refused": refused,
            "readers": readers,
        },
        "committed_lsn": delivery.committed_lsn,
        "introductions": len(node.introductions),
        "subscriptions": delivery.describe(name_of),
        "site": site,
        "directory": directory or None,
        **node.more_status(),
    }


def _state(node: Node) -> str:
    """What keeps it from taking records, or programs, if anything does."""
    if node.site is not None and node.site.copies.own.behind is not None:
        return "behind"
    if node.drain.is_on:
        return "draining"
    return "full" if node.admission.is_full else "ok"


def held_bytes(node: Node) -> int:
    """About how much memory its data takes."""
    rows = 0 if node.registrar is None else len(node.registrar.directory.table.rows)
    return (
        node.admission.waiting_bytes
        + node.delivery.held_bytes()
        + node.reads.held_bytes
        + node.sessions.unacked_bytes
        + len(node.topics.by_name) * limits.TOPIC_MEMORY_BYTES
        + node.streams.producer_count * limits.PRODUCER_MEMORY_BYTES
        + node.groups.held_bytes()
        + node.services.held_bytes()
        + node.introductions.held_bytes()
        + rows * limits.DIRECTORY_ROW_MEMORY_BYTES
    )
