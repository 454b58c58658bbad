"""Admin commands of a node: a verb and a JSON object in, a JSON object or an error out.

A command may be repeated (its answer can be lost with the session), so verbs are idempotent but
for those that mean "what there is now": a seek or a purge that is repeated is done again.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from meshmq import limits
from meshmq.core import group_commands
from meshmq.core.copied_streams import MIRRORED, OLDER
from meshmq.core.delivery import Delivery
from meshmq.core.group_commands import Clerk
from meshmq.core.groups import Groups
from meshmq.core.link_pauses import PAUSE, RESUME
from meshmq.core.log import Entry, RuleEntry, TopicEntry
from meshmq.core.producers import producer_last
from meshmq.core.registrar import Registrar
from meshmq.core.site_copies import TOPIC
from meshmq.core.topics import Topic, Topics
from meshmq.errors import CommandFailed, MeshError, TopicNotFound
from meshmq.frames import Command, Hello, Result
from meshmq.names import check_pattern, check_topic, is_literal, matches


class Desk(NamedTuple):
    """What commands ask of a node and change at it."""

    topics: Topics
    delivery: Delivery
    clerk: Clerk
    status: Callable[[], dict[str, Any]]
    services: Callable[[], list[dict[str, Any]]]
    routes: Callable[[], Iterable[dict[str, Any]]]
    of_copies: Callable[[str, dict[str, Any]], dict[str, Any]]
    registrar: Registrar | None = None
    learn: Callable[[bytes, str, int, bytes, list[Entry]], None] = lambda *what: None


Verb = Callable[[Desk, Hello, dict[str, Any], list[Entry]], dict[str, Any]]


def run(desk: Desk, hello: Hello, command: Command, entries: list[Entry]) -> Result:
    """Carry out one command; what must be stored first is added to ``entries``."""
    try:
        verb = VERBS.get(command.verb)
        of_groups = group_commands.VERBS.get(command.verb)
        arguments = _arguments(command.arguments)
        if verb is not None:
            answer = verb(desk, hello, arguments, entries)
        elif of_groups is not None:
            answer = of_groups(desk.clerk, arguments)
        else:
            raise CommandFailed(f"the node does not know the command {command.verb!r}")
        body = json.dumps(answer, separators=(",", ":")).encode()
        if len(body) > limits.RESULT_BYTES_MAX:
            raise CommandFailed(
                f"the answer of {len(body)} bytes exceeds {limits.RESULT_BYTES_MAX}: "
                f"ask for fewer topics with a pattern"
            )
        return Result(command.id, "", "", body)
    except MeshError as error:
        return Result(command.id, error.code, str(error), b"{}")


class Done(NamedTuple):
    """A command's answer, if there is one yet, and whether it waits for what is on its way to
    disk."""

    result: Result | None
    waits: bool


def carry_out(
    desk: Desk, groups: Groups, forget_topics: Callable[[list[str]], None], link: bytes,
    hello: Hello, command: Command, entries: list[Entry],
) -> Done:  # fmt: skip
    """Carry out a command that came over ``link``; ``forget_topics`` hears what it deleted."""
    added: list[Entry] = []
    groups.asked = 0  # a consumer that made a group has asked for itself
    result = run(desk, hello, command, added)
    entries += added
    forget_topics([e.name for e in added if type(e) is TopicEntry and e.deleted])
    if groups.answer_when_placed(link, result):
        return Done(None, True)
    return Done(result, bool(added) or command.verb in AFTER_SYNC)


def _arguments(data: bytes) -> dict[str, Any]:
    try:
        arguments = json.loads(data)
    except (ValueError, RecursionError):
        raise CommandFailed("a command's arguments are a JSON object") from None
    if not isinstance(arguments, dict):
        raise CommandFailed("a command's arguments are a JSON object")
    return arguments


def _text(arguments: dict[str, Any], name: str) -> str:
    value = arguments.get(name)
    if not isinstance(value, str):
        raise CommandFailed(f"the command needs {name!r}, a string")
    return value


def _number(arguments: dict[str, Any], name: str) -> int:
    value = arguments.get(name, 0)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 1 << 62:
        raise CommandFailed(f"{name!r} is a whole number from 0, less than 2**62")
    return value


def describe(topic: Topic) -> dict[str, Any]:
    """A topic as listings show it: offsets in records, times in ns, sizes in bytes."""
    entry = topic.entry
    shown: dict[str, Any] = {
        "topic": entry.name,
        "topic_id": entry.topic_id.hex(),
        "durability": "durable" if entry.durable else "transient",
        "retention_ns": entry.retention_ns,
        "retention_bytes": entry.retention_bytes,
        "published": topic.published,
    }
    if entry.replicated:
        shown["confirm"] = "replicated"
    if entry.durable:
        shown["first_offset"] = topic.first_offset
        shown["next_offset"] = topic.synced_offset
        shown["records"] = topic.synced_offset - topic.first_offset
        shown["producers"] = len(topic.producers)
    return shown


def _topic_create(
    desk: Desk, hello: Hello, arguments: dict[str, Any], entries: list[Entry]
) -> dict[str, Any]:
    pattern = check_pattern(_text(arguments, "pattern"))
    if is_literal(pattern) or pattern.startswith("$"):
        check_topic(pattern)  # names that begin with $ are not for programs to make
    durability = _text(arguments, "durability")
    if durability not in ("durable", "transient"):
        raise CommandFailed(f"durability is 'durable' or 'transient', not {durability!r}")
    if len(desk.topics.rules) >= limits.TOPICS_MAX:
        raise CommandFailed(f"the node has {limits.TOPICS_MAX} policies, its limit")
    here = desk.topics.by_name.get(pattern)
    before: TopicEntry | RuleEntry | None = desk.topics.rules.get(pattern)
    if here is not None:
        before = here.entry
    elif before is None and desk.topics.book is not None and desk.topics.existing(pattern):
        before = desk.topics.book.policy(pattern)  # another node has it
    # What is not given stays as it is: to say "create" twice must not undo a policy.
    age_ns, size = (
        _number(arguments, name) if name in arguments else getattr(before, name, 0)
        for name in ("retention_ns", "retention_bytes")
    )
    copies = _number(arguments, "copies") if "copies" in arguments else getattr(before, "copies", 0)
    if copies > limits.COPIES_MAX or (copies > 1 and durability == "transient"):
        raise CommandFailed(
            f"copies is from 1 to {limits.COPIES_MAX}, of a durable topic; 0: as many as each node "
            f"is started with"
        )
    replicated = _confirm(desk, arguments, before, copies)
    if replicated and durability == "transient":
        raise CommandFailed(
            "confirm 'replicated' is for durable topics, and this one is transient: say 'synced'"
        )
    rule = RuleEntry(pattern, durability == "durable", age_ns, size, False, copies, replicated)
    if rule.retention_ns or rule.retention_bytes:
        queues = [name for name in desk.clerk.queues if matches(pattern, name)]
        if queues:
            raise CommandFailed(
                f"topic {queues[0]!r} is a queue: its jobs are kept until they are done"
            )
    existing = desk.topics.existing(pattern)
    other = [name for name, durable in existing.items() if durable != rule.durable]
    if other:
        kind = "transient" if rule.durable else "durable"
        raise CommandFailed(
            f"topic {other[0]!r} exists and is {kind}: delete it first to change that"
        )
    policy = ("retention_ns", "retention_bytes", "copies", "replicated")
    is_changed = before is None or any(getattr(before, n) != getattr(rule, n) for n in policy)
    kept: dict[str, Any] = {n: getattr(rule, n) for n in policy[:2]}
    if copies or getattr(before, "copies", 0):
        kept["copies"] = copies
    if replicated or getattr(before, "replicated", False):
        kept["confirm"] = CONFIRM[replicated]
    if is_changed or not is_literal(pattern):  # a rule for others becomes the newest again
        desk.topics.set_policy(rule, entries)
    note = ""
    if copies or replicated:
        site = desk.of_copies(TOPIC, {"topic": None, "name": ""})
        note = _note(site, copies or desk.topics.copies, replicated)
    return {
        "pattern": pattern, "durability": durability, **kept,
        "created": before is None, "changed": before is not None and is_changed,
        **({"note": note} if note else {}),
    }  # fmt: skip


CONFIRM = ("synced", "replicated")


def _confirm(
    desk: Desk, arguments: dict[str, Any], before: TopicEntry | RuleEntry | None, copies: int
) -> bool:
    """Whether receipts are to wait for copies. Raises CommandFailed."""
    said = arguments.get("confirm", CONFIRM[getattr(before, "replicated", False)])
    if said not in CONFIRM:
        raise CommandFailed(f"confirm is 'synced' or 'replicated', not {said!r}")
    if said == "replicated" and (copies or desk.topics.copies) < 2:
        raise CommandFailed(
            "confirm 'replicated' needs copies to wait for: give --copies 2 as well, or start the "
            "nodes of the site with it"
        )
    return bool(said == "replicated")


def _note(site: dict[str, Any], wanted: int, replicated: bool) -> str:
    """What a topic's policy asks for that the ``site`` (empty: there is none) cannot do yet; or
    empty."""
    if not site:
        why = "the node belongs to no site, so there are no copies: start it with --site"
        return why if wanted > 1 else ""
    there = site["there"]
    if wanted <= there:
        return ""
    nodes = f"{there} node{' is' if there == 1 else 's are'} there, and it is to be on {wanted}: "
    if replicated:
        return f"{nodes}receipts wait until there are so many"
    return f"{nodes}receipts that ask for 'replicated' wait until there are so many"


def _topic_list(
    desk: Desk, hello: Hello, arguments: dict[str, Any], entries: list[Entry]
) -> dict[str, Any]:
    pattern = check_pattern(arguments.get("pattern") or ">")
    registrar = desk.registrar
    topics = [_described(desk, t) for n, t in desk.topics.by_name.items() if matches(pattern, n)]
    older, here = desk.of_copies(OLDER, {}), arguments.get("here")
    if registrar is not None:
        names = registrar.elsewhere(pattern)
        topics += [_elsewhere(registrar, name) for name in names if name in older or not here]
        known = {*desk.topics.by_name, *names}
        topics += [_mirrored(n, row) for n, row in desk.of_copies(MIRRORED, {}).items()
                   if n not in known and matches(pattern, n)]  # fmt: skip
    for row in topics:
        if row["topic"] in older:
            row["older"] = older[row["topic"]]
    rules = desk.topics.rules.values() if registrar is None else registrar.rules()
    return {
        "topics": sorted(topics, key=lambda row: str(row["topic"])),
        "policies": [
            {
                "pattern": r.pattern,
                "durability": "durable" if r.durable else "transient",
                "retention_ns": r.retention_ns,
                "retention_bytes": r.retention_bytes,
                **({"copies": r.copies} if r.copies else {}),
                **({"confirm": "replicated"} if r.replicated else {}),
                **(registrar.set_rule(r.pattern) if registrar is not None else {}),
            }
            for r in rules
        ],
    }


def _described(desk: Desk, topic: Topic) -> dict[str, Any]:
    said = desk.registrar.set_topic(topic.entry.name) if desk.registrar is not None else {}
    return {**describe(topic), **said}


def _elsewhere(registrar: Registrar, name: str) -> dict[str, Any]:
    """A topic that other nodes have; what they have of it is for them to say."""
    shown = describe(Topic(registrar.entry_of(name)))
    return {**shown, **registrar.set_topic(name), "elsewhere": True}


def _mirrored(name: str, row: dict[str, Any]) -> dict[str, Any]:
    """A topic that only other sites have; their nodes say its policy."""
    shown = describe(Topic(TopicEntry(0, b"", name, True, 0, 0)))
    for what in ("topic_id", "first_offset", "next_offset"):
        del shown[what]  # each log has its own
    return {**shown, "records": row["records"], "mirrored_from": sorted(row["sites"])}


def _topic_show(
    desk: Desk, hello: Hello, arguments: dict[str, Any], entries: list[Entry]
) -> dict[str, Any]:
    name = _text(arguments, "topic")
    topic = desk.topics.by_name.get(name)
    subscriptions = sum(1 for s in desk.delivery.subscriptions if matches(s.pattern, name))
    copies = _copies(desk, topic, name)
    if topic is not None:
        shown = {**_described(desk, topic), **copies}
    elif (
        desk.registrar is not None
        and (copies.get("streams") or not arguments.get("here"))
        and name in desk.registrar.elsewhere(check_topic(name))
    ):
        shown = {**_elsewhere(desk.registrar, name), **copies}
    elif (row := desk.of_copies(MIRRORED, {}).get(name)) is not None:
        shown = {**_mirrored(name, row), **copies}
    else:
        raise TopicNotFound(f"there is no topic {name!r}: it is made by the first publish to it")
    return {**shown, "subscriptions": subscriptions}


def _copies(desk: Desk, topic: Topic | None, name: str) -> dict[str, Any]:
    """How many nodes are to have a durable topic's streams, and which have those that are known
    here."""
    if topic is not None and not topic.entry.durable:
        return {}
    shown = desk.of_copies(TOPIC, {"topic": topic, "name": name})
    if not shown:
        return {}
    note = _note(shown, shown["copies"], desk.topics.confirms_copies(name))
    del shown["there"]
    return {**shown, **({"note": note} if note else {})}


def _topic_delete(
    desk: Desk, hello: Hello, arguments: dict[str, Any], entries: list[Entry]
) -> dict[str, Any]:
    name = _text(arguments, "topic")
    if name.startswith("$"):
        raise CommandFailed(f"topic {name!r} is the mesh's own: delete its group or queue")
    if name in desk.clerk.queues:
        raise CommandFailed(f"topic {name!r} is a queue: `meshmq queue delete` deletes it")
    desk.topics.delete(name, entries)
    return {"deleted": name}


def _producer_last(
    desk: Desk, hello: Hello, arguments: dict[str, Any], entries: list[Entry]
) -> dict[str, Any]:
    name = _text(arguments, "topic")
    shown = producer_last([desk.topics.by_name.get(name)], hello.producer)
    if arguments.get("here"):
        shown["copies"] = desk.topics.copied(name, hello.producer)
        roster = {} if desk.registrar is None else desk.registrar.roster()
        shown["nodes"] = {origin.hex(): by for origin, by in roster.items()}
    return shown


def _producer_known(
    desk: Desk, hello: Hello, arguments: dict[str, Any], entries: list[Entry]
) -> dict[str, Any]:
    rows = arguments.get("topics")
    try:
        known = [(check_topic(n), int(last), bytes.fromhex(i)) for n, last, i in rows or ()]
    except (TypeError, ValueError, OverflowError):
        raise CommandFailed("what is known of a producer is rows of topic, number and id") from None
    for topic, last, topic_id in known[: limits.PRODUCER_TOLD_MAX]:
        if 0 < last < 1 << 64:
            desk.learn(hello.producer, topic, last, topic_id, entries)
    return {}


def _status(
    desk: Desk, hello: Hello, arguments: dict[str, Any], entries: list[Entry]
) -> dict[str, Any]:
    return desk.status()


def _service_list(
    desk: Desk, hello: Hello, arguments: dict[str, Any], entries: list[Entry]
) -> dict[str, Any]:
    pattern = check_pattern(arguments.get("pattern") or ">")
    return {"services": [s for s in desk.services() if matches(pattern, s["service"])]}


def _route_list(
    desk: Desk, hello: Hello, arguments: dict[str, Any], entries: list[Entry]
) -> dict[str, Any]:
    routes: list[dict[str, Any]] = []
    size = 0
    for row in desk.routes():
        if row["from_instance"] == hello.instance.hex():
            continue  # who asks is no news to itself
        size += len(json.dumps(row))
        if size > limits.ROUTES_LISTED_BYTES_MAX:
            return {"routes": routes, "complete": False}
        routes.append(row)
    return {"routes": routes, "complete": True}


def _of_site(verb: str) -> Verb:
    return lambda desk, hello, arguments, entries: desk.of_copies(verb, arguments)


OF_COPIES = (
    "node.takeover", "node.forget", "site.takeover", "site.handback", PAUSE, RESUME,
)  # fmt: skip

AFTER_SYNC = (
    frozenset({"producer.last", "topic.create", "topic.delete", *OF_COPIES})
    | group_commands.CHANGING
)
"""Verbs whose answer tells what is stored: it waits for what is on its way to disk."""

VERBS: dict[str, Verb] = {
    "topic.create": _topic_create,
    "topic.list": _topic_list,
    "topic.show": _topic_show,
    "topic.delete": _topic_delete,
    "producer.last": _producer_last,
    "producer.known": _producer_known,
    "service.list": _service_list,
    "route.list": _route_list,
    "status": _status,
    **{verb: _of_site(verb) for verb in OF_COPIES},
}
