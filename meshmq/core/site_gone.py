"""What is said of nodes that are gone: that their groups are another one's to work on, or that they
do not come back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from meshmq.core.takeover import check_seen
from meshmq.errors import CommandFailed

if TYPE_CHECKING:
    from meshmq.core.site_copies import SiteCopies


def take_over(copies: SiteCopies, arguments: dict[str, Any], now_ns: int) -> dict[str, Any]:
    """``node takeover NAME``. Raises CommandFailed."""
    name = arguments.get("name")
    if copies.own.behind is not None:
        raise CommandFailed("the log of this node is behind its copies: renew it first")
    found = [m for m in copies.mirrors.of_site if m.name == name]
    if not found:
        raise CommandFailed(_no_copy_of(copies, name))
    # More than one, if its disk was lost or its log renewed: each has work of its own.
    gone = [m for m in found if m.origin not in copies.siblings] or found
    gone = [m for m in gone if not copies.takeovers.is_another_s(m)] or gone
    gone.sort(key=lambda m: m.synced, reverse=True)
    linked = {origin: sibling.name for origin, sibling in copies.siblings.items()}
    for mirror in gone:
        seen_ns = copies.seen_ns(mirror.origin, now_ns)
        further = copies.ahead(mirror.origin, (mirror.synced, True))
        ahead = further.name if further else ""
        mine = {mirror.origin: None}  # who has not told yet may have one
        holders = [o for o in linked if mirror.origin in copies.held.get(o, mine)]
        copies.takeovers.check(mirror, linked, seen_ns, arguments, ahead, holders)
    taken = copies.takeovers.take(gone, linked)
    for mirror in gone:
        copies.end_fetch(mirror)
    return taken


def _no_copy_of(copies: SiteCopies, name: object) -> str:
    """What is said of a node that is not copied here."""
    have = ", ".join(sorted({m.name for m in copies.mirrors.of_site}))
    if name not in copies.names.values() and name not in copies.known().values():
        kept = f"; the copies that are kept here are of {have}" if have else ""
        return f"there is no node {name!r} in the site{kept}"
    others = [s.name for o, s in copies.siblings.items()
              if name in [row.name for row in copies.held.get(o, {}).values()]]  # fmt: skip
    if others:
        to = " or ".join(sorted(others))
        return f"no copy of a node named {name!r} is kept here: say it to {to}, which has one"
    return (
        f"no copy of a node named {name!r} is kept here, nor at a node that is there: its work "
        f"waits until it is started again"
    )


def forget(
    copies: SiteCopies, arguments: dict[str, Any], now_ms: int, now_ns: int, own_name: str
) -> dict[str, Any]:
    """``node forget NAME``. Raises CommandFailed."""
    name = arguments.get("name")
    names = {**copies.names, **copies.known()}
    known = {o: n for o, n in names.items() if not copies.forgetting.is_forgotten(o)}
    found = [o for o, n in known.items() if n == name and o != copies.origin]
    gone = [o for o in found if o not in copies.siblings]
    if not gone and name in [e.name for e in copies.forgetting.known.values() if not e.lifted]:
        return copies.forgetting.told_of(name)  # said before: the answer may have been lost
    if not gone and found:
        raise CommandFailed(f"node {name!r} is there: stop it first")
    if not gone and name == own_name:
        raise CommandFailed(f"{name!r} is this node itself: another one that is gone is meant")
    if not gone:
        away = {n for o, n in known.items() if o != copies.origin and o not in copies.siblings}
        others = f", but {', '.join(sorted(away))}" if away else ""
        raise CommandFailed(f"no node named {name!r} is known here that is away{others}")
    for origin in gone:
        if not arguments.get("assume_dead"):
            check_seen(str(name), copies.seen_ns(origin, now_ns))
        if copies.takeovers.is_moving(origin):
            raise CommandFailed(
                f"what the groups of {name!r} had not done is being moved here: wait until "
                f"`meshmq status` says that it is"
            )
    for origin in gone:
        copies.forgetting.forget(origin, str(name), now_ms)
        copies.names.pop(origin, None)
    copies.drop_forgotten()
    return copies.forgetting.told_of(name)
