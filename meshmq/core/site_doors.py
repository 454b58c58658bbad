"""Who is let in over the listener for nodes, and what a command asks of a site's copies."""

from __future__ import annotations

from typing import Any

from meshmq import limits
from meshmq.core.copied_streams import MIRRORED, OLDER, mirrored, older
from meshmq.core.link_pauses import PAUSE, RESUME
from meshmq.core.sibling import Sibling
from meshmq.core.site import Site
from meshmq.core.site_copies import TOPIC
from meshmq.core.site_gone import forget, take_over
from meshmq.core.site_identity import is_of_nodes
from meshmq.errors import CommandFailed
from meshmq.frames import Hello, Refuse


def judge_node(
    site: Site | None, link: bytes, hello: Hello, name: str
) -> tuple[Refuse | None, Sibling | None]:
    """A hello of a node, or over the listener for nodes: why not, or with whom."""
    if site is None or not is_of_nodes(link):
        why = f"{name!r} listens here for programs only"
        if site is None:
            why += ", and belongs to no site: start it with --site"
        else:
            why += f"; nodes reach it at {' or '.join(site.me.addresses)}"
        return Refuse("not-a-node", why), None
    if hello.node is None:
        return Refuse("node-unreachable", site.links.nodes_only), None
    found = site.judge(hello)
    return (found, None) if isinstance(found, Refuse) else (None, found)


def of_copies(
    site: Site | None, what: tuple[str, dict[str, Any]], wall_ms: int, now_ns: int
) -> dict[str, Any]:
    """``node takeover``, ``forget``, of other sites and links with them; what is of a topic or in
    older logs. Raises CommandFailed."""
    verb, arguments = what
    if verb == TOPIC:
        return {} if site is None else site.of_topic(arguments["topic"], arguments["name"])
    if verb == OLDER:
        return {} if site is None else older(site.copies.mirrors.of_site, site.siblings)
    if verb == MIRRORED:
        return {} if site is None else mirrored(site.copies.mirrors.of_others)
    if site is None:
        has = "links with other sites" if verb in (PAUSE, RESUME) else "copies of other nodes"
        raise CommandFailed(f"the node belongs to no site, so it has no {has}")
    name = arguments.get("name")
    kind = verb.partition(".")[0]
    if not isinstance(name, str) or not 0 < len(name) <= limits.PEER_NAME_MAX:
        raise CommandFailed(
            f"a {kind} is named by a text of 1 to {limits.PEER_NAME_MAX} characters"
        )
    for flag in ("assume_dead", "may_repeat", "check"):
        if not isinstance(arguments.get(flag, False), bool):
            raise CommandFailed(f"{flag} is true or false")
    if kind == "link":
        return site.far_side.command(verb, name, now_ns, node=site.links.hello.name)
    if kind == "site":
        return site.words.command(verb, arguments, now_ns)
    if verb == "node.forget":
        return forget(site.copies, arguments, wall_ms, now_ns, site.links.hello.name)
    return take_over(site.copies, arguments, now_ns)
