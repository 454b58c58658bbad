"""Answers the requests of a service for ``meshmq serve``, each in a thread of the client."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from meshmq.cli.output import emit, note, plural, printable
from meshmq.cli.processes import KILL_GRACE_S, REASON_BYTES, Ended, Running, signal_name
from meshmq.cli.stopping import Stopping
from meshmq.errors import MessageTooLarge, ServiceError
from meshmq.limits import VALUE_BYTES_MAX

if TYPE_CHECKING:
    from meshmq import Instance, Mesh, Request

STOP_GRACE_S = 30.0  # for what runs, after the first signal
LOOK_S = 0.1  # so soon a command is told that nobody waits for its answer any more
IDLE_LOOK_S = 0.5  # ... and a signal, that the instance has ended by itself


class Answered(NamedTuple):
    """How a request went.

    Attributes:
        outcome: ``"replied"``, ``"failed"`` (the answer is an error), ``"dropped"`` (nobody
            waited for the answer any more), ``"cut-off"`` (a second signal did not wait for it).
        error: the answer, if that is an error.
        exit_code: the command's, if it has one.
    """

    outcome: str
    value: bytes = b""
    error: ServiceError | None = None
    exit_code: int | None = None


class Server:
    """An instance of a service: echoes, or runs a command for each request."""

    def __init__(
        self,
        mesh: Mesh,
        service: str,
        command: str | None,
        concurrency: int,
        name: str,
        json: bool,
        url: str | None,
    ) -> None:
        self._mesh = mesh
        self._service = service
        self._command = command
        self._concurrency = concurrency
        self._name = name
        self._json = json
        self._url = url
        self._guard = threading.Lock()
        self._counts = {"replied": 0, "failed": 0, "dropped": 0, "cut-off": 0}
        self._error: Exception | None = None
        self._is_hurried = False  # there was a second signal
        self._is_cutting = False  # what ends from now on is cut off
        self._is_cut = False  # what runs is to end now

    def run(self) -> None:
        """Serve until a signal comes; say what was done."""
        # Why the instance ended is raised here, and said once, where every error is.
        logging.getLogger("meshmq").setLevel(logging.CRITICAL)
        with Stopping(self._on_second_signal) as stopping:
            instance = self._mesh.serve(self._service, self._answer, concurrency=self._concurrency)
            how = "an echo" if self._command is None else f"`{self._command}`"
            note(
                f"serving '{self._service}' with {how} as {printable(self._name.encode())}, "
                f"{self._concurrency} at a time; Ctrl-C ends it"
            )
            while not (stopping.is_asked or instance.stopped or self._error):
                stopping.wait(IDLE_LOOK_S)
            left = self._stop(instance, stopping)
        error = self._error or instance.error
        if error is not None:
            raise error
        done, failed, dropped, cut = self._counts.values()
        cut = max(cut, left)  # a command that did not end has said nothing
        begun = done + failed + dropped + cut
        counts = f"{plural(begun, 'request')}, {failed:,} answered with an error"
        if dropped:
            counts += f", {dropped:,} given up by who asked"
        if cut:
            counts += f", {cut:,} cut off"
        stopping.end(counts)

    # -- the end ----------------------------------------------------------------------------------

    def _on_second_signal(self) -> None:
        self._is_hurried = True

    def _stop(self, instance: Instance, stopping: Stopping) -> int:
        """Let what runs come to its end, within the grace time; how many did not."""
        instance.announce_stop()
        if stopping.is_asked and instance.running:
            running = plural(instance.running, "request")
            note(f"finishing {running} ({STOP_GRACE_S:g} s at most), Ctrl-C again ends it")
        self._wait(stopping, STOP_GRACE_S, lambda: instance.stopped or self._is_hurried)
        if instance.stopped:
            instance.stop(STOP_GRACE_S)  # what it has answered is at the node then
            return 0
        left = instance.running
        # The connection first: so who waits is told that the instance is lost, or another one is
        # asked, instead of getting what a killed command leaves.
        self._is_cutting = True
        self._mesh.close(timeout=0.0)
        self._is_cut = True
        self._wait(stopping, 2 * KILL_GRACE_S, lambda: instance.stopped)
        return left

    def _wait(self, stopping: Stopping, seconds: float, is_over: Callable[[], bool]) -> None:
        deadline = time.monotonic() + seconds
        while not is_over() and time.monotonic() < deadline:
            stopping.wait(LOOK_S / 2)

    # -- one request, in a thread of the client ---------------------------------------------------

    def _answer(self, request: Request) -> bytes:
        began = time.monotonic()
        try:
            answered = self._work(request)
            self._tell(request, answered, time.monotonic() - began)
        except OSError as error:  # nobody reads what we say: time to end
            self._error = self._error or error
            raise
        if answered.error is not None:
            raise answered.error
        return answered.value

    def _work(self, request: Request) -> Answered:
        if self._command is None:
            return Answered("replied", request.value)
        try:
            running = Running(
                self._command, request.value, self._environment(request), None, VALUE_BYTES_MAX
            )
        except OSError as error:
            why = f"the command could not be started: {error.strerror}"
            return Answered("failed", error=ServiceError(why, "exec-failed"))
        ended = running.wait(
            request.remaining, LOOK_S, lambda: not (request.cancelled or self._is_cut)
        )
        if self._is_cutting:
            why = "the instance was stopped"
            return Answered("cut-off", error=ServiceError(why, "cut-off"), exit_code=ended.code)
        if request.cancelled or (ended.is_late and not ended.is_too_much):
            why = "nobody waits for the answer any more"
            return Answered("dropped", error=ServiceError(why, "dropped"), exit_code=ended.code)
        if ended.code or ended.is_too_much:
            return Answered("failed", error=_failure_of(ended), exit_code=ended.code)
        return Answered("replied", ended.stdout, exit_code=0)

    def _environment(self, request: Request) -> dict[bytes, bytes]:
        found = {
            b"MESHMQ_SERVICE": request.service.encode(),
            b"MESHMQ_DEADLINE_SECONDS": b"%.3f" % request.remaining,
        }
        if self._url is not None:
            found[b"MESHMQ_URL"] = self._url.encode()
        return found

    def _tell(self, request: Request, answered: Answered, seconds: float) -> None:
        error = answered.error
        with self._guard:  # a line is one, whoever else has one
            self._counts[answered.outcome] += 1
            if self._json:
                emit(
                    {
                        "service": request.service,
                        "outcome": answered.outcome,
                        "request_bytes": len(request.value),
                        "reply_bytes": len(answered.value),
                        "exit_code": answered.exit_code,
                        "seconds": round(seconds, 3),
                        "error": error.code if error is not None else None,
                        "message": str(error) if error is not None else None,
                    }
                )
            elif answered.outcome == "failed":
                note(f"a request was answered with an error: {_told(answered)}")
            elif answered.outcome == "dropped":
                note(f"a request was given up after {seconds:.1f} s, its command ended")
            elif answered.outcome == "cut-off":
                note(f"a request was cut off after {seconds:.1f} s, its command ended")


def _told(answered: Answered) -> str:
    """Why a command failed, in a few words: what it wrote is on the screen already."""
    error, code = answered.error, answered.exit_code
    if error is None or code is None or not error.code.startswith("exit-"):
        return str(error)
    return _how(code)


def _how(code: int) -> str:
    return f"ended by {signal_name(-code)}" if code < 0 else f"exit status {code}"


def _failure_of(ended: Ended) -> ServiceError:
    """What who asked gets from a command that has failed."""
    if ended.is_too_much:
        why = f"the answer has more than {VALUE_BYTES_MAX} bytes, the limit of one value"
        return ServiceError(why, MessageTooLarge.code)
    # As a shell counts, so that it is the same whether the shell or what it ran was killed.
    status = ended.code if ended.code >= 0 else 128 - ended.code
    text = ended.stderr[-REASON_BYTES:].decode("utf-8", "replace").strip()
    return ServiceError(text or _how(ended.code), f"exit-{status}")
