"""What the referee of the groups' world makes of commands: a seek, a purge, a job cancelled."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from meshmq.frames import Command, Result
from meshmq.names import JobId
from meshmq.testing.cases import CANCELLED, OPEN, PURGED, Case, Cases, Place


class Commands(Cases):
    """See the module's header."""

    def note_group(self, name: str, arguments: dict[str, Any]) -> None:
        """A group is asked for: where it is made now, it may begin behind what is there."""
        node = self.world.node
        assert node is not None
        if name in node.groups.by_name:
            return
        if arguments.get("start") == "new":
            for topic, t in node.topics.by_name.items():
                self.floors[name, topic] = t.next_offset

    def on_command(self, link: bytes, body: Command) -> None:
        """A session accepted one."""
        arguments = json.loads(body.arguments)
        self._commands[link, body.id] = body.verb, arguments
        name = arguments.get("group") or arguments.get("queue") or ""
        match body.verb:
            case "group.create":
                self.note_group(name, arguments)
            case "group.seek":
                start = arguments["start"]
                if isinstance(start, dict) and "time_ns" in start:
                    self._by_time.append((start["time_ns"], name))
                else:
                    self._seek(name, start)
            case "queue.purge":
                for place in self._places(name):
                    case = self.case(name, place)
                    if self._may_wait(name, place, case):
                        case.excuse = PURGED
            case "dlq.purge":
                offsets = {o for first, n in arguments["ranges"] for o in range(first, first + n)}
                self.dropped.setdefault(name, set()).update(offsets)
            case "queue.cancel":
                case = self._job_case(arguments)
                is_waiting = self._may_wait(name, self._job_place(arguments), case)
                if is_waiting and case.excuse != PURGED:
                    case.excuse = CANCELLED
            case "queue.reschedule":
                self._job_case(arguments).wait_ms = 0
                self.world.moved.add(self._job_place(arguments))
            case _:
                pass

    def _may_wait(self, group: str, place: Place, case: Case) -> bool:
        """Whether a record may be in nobody's hands: also what is claimed, before the answer, and
        what the node may have taken back and had nobody to tell."""
        if case.status != OPEN:
            return False
        return case.hold is None or case.hold.is_claimed or self._lapsed(case, place, group)

    def _places(self, group: str) -> list[Place]:
        """Records of a group that are on disk."""
        wanted = self.world.sources_of(group)
        return [place for place in self.log if wanted(place[0])]

    def surveying(self, number: int, time_ns: int) -> None:
        """The node asks the log where a time is: until that is told, a seek has changed nothing."""
        found = next(seek for seek in self._by_time if seek[0] == time_ns)
        self._by_time.remove(found)
        self._surveys[number] = found[1]

    def surveyed(self, number: int) -> None:
        """The log has answered: the seek that waits for it is done now."""
        group = self._surveys.pop(number, "")
        if group:
            self._seek(group, "time")

    def _seek(self, group: str, start: Any) -> None:
        node = self.world.node
        assert node is not None
        self.seeks[group] += 1
        for hold in [h for h in self.holds.values() if h.group == group]:
            self.holds.pop((group, hold.number))
        for member in self.members.values():
            if member.group == group:
                member.claims.clear()
        self.cases[group] = {}
        for floors in (self.floors, self.excused):
            for pair in [k for k in floors if k[0] == group]:
                del floors[pair]
        for topic, t in node.topics.by_name.items():
            if start != "earliest" or topic.startswith("$retry."):
                self.excused[group, topic] = t.next_offset

    def _job_place(self, arguments: dict[str, Any]) -> Place:
        """Of the job that a command is about."""
        job = JobId.parse(arguments["job"])
        topics = self.world.disk.state.topics
        topic = next(name for name in topics if self.world.topic_key(name) == job.topic_key)
        return topic, job.offset

    def _job_case(self, arguments: dict[str, Any]) -> Case:
        return self.case(arguments["queue"], self._job_place(arguments))

    def on_result(self, link: bytes, body: Result) -> None:
        """It is answered."""
        verb, arguments = self._commands.pop((link, body.id), ("", {}))
        if verb == "queue.cancel" and body.code:
            case = self._job_case(arguments)
            case.excuse = "" if case.excuse == CANCELLED else case.excuse
            if case.maybe_cancelled and case.status == OPEN and case.hold is None:
                case.status = CANCELLED  # the repeat of one that was done
        if body.code or not verb:
            return
        name = arguments.get("group") or arguments.get("queue") or ""
        if verb in ("queue.cancel", "queue.reschedule"):
            case = self._job_case(arguments)
            if verb == "queue.cancel":
                case.status, case.is_sure = CANCELLED, True
            else:
                case.wait_ms, case.wait_sure = arguments["due_ms"], True
        elif verb == "queue.purge":
            for case in self.cases.get(name, {}).values():
                if case.excuse == PURGED and case.status == OPEN and case.hold is None:
                    case.status, case.is_sure = PURGED, True

    def lose_commands(self, keys: Iterable[tuple[bytes, int]]) -> None:
        """Nobody gets their answers: whether they were done a repeat may not tell."""
        for key in keys:
            verb, arguments = self._commands.pop(key)
            if verb == "queue.cancel":
                self._job_case(arguments).maybe_cancelled = True
