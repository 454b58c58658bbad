"""What a history of requests must keep. Each checker returns sentences: what is wrong."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator

from meshmq import limits
from meshmq.core.node import Node
from meshmq.errors import BY_CODE, NOT_DONE, DeadlineExceeded, NoResponders, ServiceError
from meshmq.frames import EACH, ONE, STREAM, ReplyRow
from meshmq.limits import MS
from meshmq.testing.request_ledger import RequestLedger, tag_of, takers_of
from meshmq.testing.request_program import PROBE_NS
from meshmq.testing.request_records import OWN_CODE, Asking, Run
from meshmq.testing.request_world import ANCHORED

TURN_NS = 1 * MS  # the longest turn of a simulated node: what it decides leaves by then
SOON_NS = 50 * MS  # without faults: a few ways of frames, and turns


def check_requests(world: RequestLedger) -> list[str]:
    """Everything that is wrong with a history; empty when it kept its promises."""
    return [fault for checker in CHECKERS for fault in checker(world)]


# -- calls ---------------------------------------------------------------------------------------


def ends(world: RequestLedger) -> Iterator[str]:
    """Every call ends once, at its deadline at the latest."""
    for asking in world.askings:
        if asking.news_after_end:
            yield f"{asking!r} had news {asking.news_after_end} times after its end"
        if asking.ended_ns > asking.call.deadline_ns + MS and not asking.is_dead:
            late = (asking.ended_ns - asking.call.deadline_ns) // MS
            yield f"{asking!r} ended {late} ms after its deadline"


def _run_of(world: RequestLedger, asking: Asking, data: bytes) -> Run | str:
    """Which handler has produced this value for that call, or what is wrong with it."""
    try:
        tag, index = tag_of(data), int(data.split(b"|")[1])
    except (ValueError, IndexError):
        return f"{asking!r} got {data!r}, which nobody answered"
    if tag != asking.tag:
        return f"{asking!r} got the reply to request {tag}"
    run = world.runs[index]
    if run.asking is not asking or data not in run.produced:
        return f"{asking!r} got {data!r}, which run {index} did not produce"
    return run


def replies(world: RequestLedger) -> Iterator[str]:
    """What a program takes was produced by a handler for that very request."""
    for asking in world.askings:
        for row, data in asking.taken:
            if not row.code:
                run = _run_of(world, asking, data)
                if isinstance(run, str):
                    yield run
            elif row.code == ServiceError.code and not _failed(asking, row.message, row.detail):
                yield f"{asking!r} got an error that no handler gave: {row.message!r}"
        error = asking.call.error
        if isinstance(error, ServiceError) and not _failed(asking, str(error), error.code):
            yield f"{asking!r} failed with what no handler said: {error}"


def _failed(asking: Asking, text: str, code: str) -> bool:
    return code == OWN_CODE and any(run.how == "error" and text == str(run.error())
                                    for run in asking.runs)  # fmt: skip


def last_replies(world: RequestLedger) -> Iterator[str]:
    """A call has one last reply: of ONE a value or an error, never both, never more."""
    for asking in world.askings:
        if any(ask.answers > 1 for ask in asking.asks):
            yield f"{asking!r} was answered more than once"
        if asking.call.kind != ONE or asking.is_cancelled or asking.is_dead:
            continue
        count = len(asking.taken) + (asking.call.error is not None)
        if asking.ended_ns and count != 1:
            yield f"{asking!r} has {len(asking.taken)} replies and the error {asking.call.error}"


def streams(world: RequestLedger) -> Iterator[str]:
    """Values come in order and without holes, all of one handler, all of them if it ends well."""
    for asking in world.askings:
        if asking.call.kind != STREAM:
            continue
        values = [data for _, data in [*asking.taken, *asking.call.replies]]
        runs = [_run_of(world, asking, data) for data in values]
        run = runs[0] if runs else None
        if isinstance(run, str):
            continue  # told already
        if run is not None and values != run.produced[: len(values)]:
            yield f"{asking!r} got {values}, its handler sent {run.produced}"
        if not asking.ended_ns or asking.is_cancelled or asking.is_dead:
            continue
        error = asking.call.error
        if run is None:
            ended = [r for r in asking.runs if r.how]
            if error is None and not any(r.how == "value" and not r.produced for r in ended):
                yield f"{asking!r} ended well without a value"
        elif error is None and (run.how != "value" or len(values) < len(run.produced)):
            yield f"{asking!r} ended well after {len(values)} of {len(run.produced)} ({run.how})"
        elif isinstance(error, ServiceError) and len(values) < len(run.produced):
            yield f"{asking!r} failed before its values had come"


def windows(world: RequestLedger) -> Iterator[str]:
    """Of a stream not more than its window is on its way, and one value; what is taken makes
    room."""
    for run in world.runs:
        if run.incoming.kind == STREAM and run.ahead >= run.asking.call.window:
            window = run.asking.call.window
            yield f"{run.asking!r}: {run.ahead} bytes were on their way, its window is {window}"
        if run.asking.is_calm and run.stall_ns > SOON_NS:
            yield f"{run.asking!r}: nothing came for {run.stall_ns // MS} ms, and all was taken"


# -- who begins what -----------------------------------------------------------------------------


def begun_once(world: RequestLedger) -> Iterator[str]:
    """What is not idempotent is begun once; of EACH once at each instance."""
    for asking in world.askings:
        if asking.call.idempotent:
            continue
        if asking.call.kind != EACH:
            if len(asking.runs) > 1:
                yield f"{asking!r} was begun {len(asking.runs)} times"
            continue
        places = Counter((r.hand_out.link, r.hand_out.registration) for r in asking.runs)
        for (link, _), n in places.items():
            if n > 1:
                yield f"{asking!r} was begun {n} times at {link!r}"


def attempts(world: RequestLedger) -> Iterator[str]:
    """What is idempotent is begun so many times in each session of its requester, and handed out
    as often, but for what was given back."""
    for asking in world.askings:
        if not asking.call.idempotent:
            continue
        most = limits.REQUEST_ATTEMPTS_MAX * max(1, len(asking.asks))
        if len(asking.runs) > most:
            yield f"{asking!r} was begun {len(asking.runs)} times"
        times = sum(not hand_out.is_returned for hand_out in asking.hand_outs)
        if times > most and asking.call.kind != EACH:
            yield f"{asking!r} was handed out {times} times"


def not_done(world: RequestLedger) -> Iterator[str]:
    """Who is told that nothing was done can rely on it."""
    for asking in world.askings:
        error = asking.call.error
        if error is not None and error.outcome == NOT_DONE and asking.runs:
            yield f"{asking!r}: {error.code} says that nothing was done, and it was begun"
        for row, _ in asking.taken:
            if row.code and BY_CODE[row.code].outcome == NOT_DONE:
                yield from _not_done_of_each(world, asking, row)


def _not_done_of_each(world: RequestLedger, asking: Asking, row: ReplyRow) -> Iterator[str]:
    """As above, of one instance: where no other one has its name."""
    places = {
        serving
        for serving in world.servings
        if serving.service == asking.call.service and serving.program.title == row.instance
    }
    if len(places) == 1 and any(run.serving in places for run in asking.runs):
        yield f"{asking!r}: {row.instance} is told to have done nothing ({row.code}), and had begun"


def deadlines(world: RequestLedger) -> Iterator[str]:
    """Nothing is handed out after its deadline, as the node knows it, nor begun later than that
    and the way of its frame to the instance (whose clock knows only what is left)."""
    for asking in world.askings:
        for hand_out in asking.hand_outs:
            late = hand_out.sent_ns - hand_out.due_ns - TURN_NS
            if late > 0:
                yield f"{asking!r} was handed out {late // 1000} us after its deadline"
    for run in world.runs:
        late = run.begun_ns - _last_ns(run)
        if late > 0:
            yield f"{run.asking!r} was begun {late // 1000} us after its deadline"
        given_up = run.asking.ended_ns and run.begun_ns > run.asking.ended_ns + SOON_NS
        if run.asking.is_calm and given_up:
            yield f"{run.asking!r} was begun when nobody waited for it any more"


def _last_ns(run: Run) -> int:
    """Until when a handler may begin, and by when it is told that time is over."""
    hand_out = run.hand_out
    return hand_out.due_ns + hand_out.arrived_ns - hand_out.sent_ns + TURN_NS


def places(world: RequestLedger) -> Iterator[str]:
    """An instance never has more than its concurrency, and nothing behind its end."""
    for asking in world.askings:
        for hand_out in asking.hand_outs:
            if hand_out.beside > hand_out.concurrency > 0:
                yield (
                    f"{asking!r}: {hand_out.link!r} had {hand_out.beside} at work, not "
                    f"{hand_out.concurrency}"
                )
            if hand_out.is_behind_end:
                yield f"{asking!r} was handed to {hand_out.link!r} behind the end of it"


# -- who is told ---------------------------------------------------------------------------------


def told(world: RequestLedger) -> Iterator[str]:
    """A handler is told when nobody waits any more: by its own clock, or that of its session; in
    the calm part soon after its requester gave up; and there not before."""
    for run in world.runs:
        program = run.serving.program
        over_ns = run.ended_ns or world.now_ns
        limits_ns = {"its deadline": _last_ns(run)}
        if run.lost_ns:
            limits_ns["its session"] = run.lost_ns
        asking = run.asking
        if asking.is_calm and asking.ended_ns:
            limits_ns["its requester"] = max(asking.ended_ns, run.begun_ns) + SOON_NS
        for what, at_ns in limits_ns.items():
            if program.alive and over_ns > at_ns + MS and not 0 < run.told_ns <= at_ns + MS:
                yield f"{asking!r}: its handler was not told that {what} is gone"
        if asking.is_calm and 0 < run.told_ns < (asking.ended_ns or world.now_ns):
            yield f"{asking!r}: its handler was told {run.told!r}, and the call goes on"


# -- without faults ------------------------------------------------------------------------------


def calm(world: RequestLedger) -> Iterator[str]:
    """Without faults a call is answered, its service says no, or it is too late."""
    for asking in world.askings:
        error = asking.call.error
        if not asking.is_calm or isinstance(error, DeadlineExceeded | ServiceError | None):
            continue
        is_anchored = asking.call.service in ANCHORED
        if is_anchored or not isinstance(error, NoResponders):
            yield f"{asking!r} failed without a fault: {error.code}: {error}"


def each(world: RequestLedger) -> Iterator[str]:
    """Of EACH there is at most one reply of an instance; without faults one of all that serve."""
    for asking in world.askings:
        if asking.call.kind != EACH:
            continue
        runs = [_run_of(world, asking, data) for row, data in asking.taken if not row.code]
        links = Counter(r.serving for r in runs if isinstance(r, Run))
        for serving, n in links.items():
            if n > 1:
                yield f"{asking!r} got {n} replies of {serving.program.label}"
        if not asking.is_calm or asking.is_cancelled or asking.call.error is not None:
            continue
        answered = {run.serving for run in asking.runs if run.how}
        for serving in world.servings:
            if (
                serving.service == asking.call.service
                and serving.is_up(asking.asked_ns, asking.ended_ns)
                and serving not in answered
            ):
                yield f"{asking!r} ended well without {serving.program.label}"
        if len(asking.taken) != len(asking.hand_outs) and not any(
            row.code == NoResponders.code for row, _ in asking.taken
        ):
            n = len(asking.hand_outs)
            yield f"{asking!r} has {len(asking.taken)} replies of {n} instances"


def nobody(world: RequestLedger) -> Iterator[str]:
    """Without faults nobody waits for an instance where there is none."""
    for asking in world.askings:
        if not asking.is_calm or asking.runs or asking.is_cancelled:
            continue
        begin, end = asking.ended_ns - SOON_NS, asking.ended_ns
        if begin <= asking.asked_ns or not isinstance(asking.call.error, DeadlineExceeded):
            continue
        if not any(
            serving.service == asking.call.service
            and any(up <= end and not 0 < down <= begin for up, down in serving.spans)
            for serving in world.servings
        ):
            yield f"{asking!r} waited for {asking.call.service}, which nobody served"


def roll_call(world: RequestLedger) -> Iterator[str]:
    """At rest every place of every instance takes a request, at once."""
    if world.unrest:
        return
    for asking in world.askings:
        if not asking.is_probe:
            continue
        took = asking.ended_ns - asking.asked_ns
        if asking.call.error is not None:
            if not isinstance(asking.call.error, NoResponders) or _is_served(world, asking):
                yield f"{asking!r} failed in the roll call: {asking.call.error}"
        elif took > world.turns * PROBE_NS + SOON_NS:
            yield f"{asking!r} took {took // MS} ms in the roll call"


def _is_served(world: RequestLedger, asking: Asking) -> bool:
    return any(s.is_known and s.service == asking.call.service for s in world.servings)


# -- rest ----------------------------------------------------------------------------------------


def rest(world: RequestLedger) -> Iterator[str]:
    """After healing every call has an end, every handler too."""
    for fault in world.unrest:
        yield f"no rest: {fault}"


def counters(world: RequestLedger) -> Iterator[str]:
    """The node's counters added up at the end of every turn; nobody was refused or answered
    what it did not ask."""
    yield from world.audits
    yield from world.strange


def memory(world: RequestLedger) -> Iterator[str]:
    """At rest nothing stays in memory, at a node or at a client."""
    if world.unrest:
        return
    kept: dict[str, object] = {}
    for number, node in enumerate(world.nodes()):
        kept |= {f"node {number}: {what}": held for what, held in _kept(world, node)}
    up = sum(serving.is_known for serving in world.servings)
    known = sum(
        len(service.instances)
        for node in world.nodes()
        for service in node.services.by_name.values()
    )
    if up != known:
        yield f"nodes know {known} instances, {up} serve"
    for program in world.programs.values():
        responder, requester = program.client.responder, program.client.requester
        kept[f"{program.name}'s calls"] = requester.calls or requester.has_work
        kept[f"{program.name}'s requests"] = responder._incoming or responder.has_work
        kept[f"{program.name}'s places"] = [
            r for r in responder.registrations.values() if r.held or r.queue or not r.is_serving
        ]
    for what, value in kept.items():
        if value:
            yield f"{what}: {str(value)[:200]} at rest"


def _kept(world: RequestLedger, node: Node) -> Iterator[tuple[str, object]]:
    """What a node has in memory of requests and services that it should not have at rest."""
    services = node.services
    yield "asked", services._asked
    yield "asking", services._asking
    yield "bytes", services._bytes
    yield "shares", services._shares
    yield "backlog", services.outgoing.backlog
    yield "boxes", services.outgoing.boxes
    yield "stuck links", services._stuck
    yield "waiting", [s.name for s in services.by_name.values() if s.waiting or s.guests]
    yield "empty", [s.name for s in services.by_name.values() if not (s.instances or s.remotes)]
    yield "deadlines", [d for d in services._deadlines if d[0] < world.now_ns]
    links = {program.link for program in world.programs.values()} | set(services.siblings)
    yield "links", [link for link in services._instances if link not in links]
    yield "outboxes", [link for link in services.outgoing._all if link not in links]
    for taker in takers_of(services):
        busy = taker.held or taker.held_bytes or taker.waiting or taker.draining
        yield f"an instance of {taker.link!r}", busy


CHECKERS: tuple[Callable[[RequestLedger], Iterator[str]], ...] = (
    ends,
    replies,
    last_replies,
    streams,
    windows,
    begun_once,
    attempts,
    not_done,
    deadlines,
    places,
    told,
    calm,
    each,
    nobody,
    roll_call,
    rest,
    counters,
    memory,
)
