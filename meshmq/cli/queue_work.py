"""``meshmq queue work``: take jobs; show them, or run a command for each."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Annotated

import typer

from meshmq.cli.group_options import AckTimeoutOption, QueueArgument
from meshmq.cli.messages import Format, job_object, renderer
from meshmq.cli.options import (
    InsecureOption,
    JsonOption,
    MeshOption,
    StateTeller,
    Target,
    UrlOption,
    connected,
    parse_seconds,
    queue_argument,
)
from meshmq.cli.output import note
from meshmq.cli.taking import show_and_ack
from meshmq.errors import GroupNotFound
from meshmq.limits import MEMBERS_PER_SESSION_MAX, PREFETCH_RECORDS_MAX

if TYPE_CHECKING:
    from meshmq import Mesh

SHOW_PREFETCH = 1000  # without a command a job is done in a moment


def work(
    name: QueueArgument,
    command: Annotated[
        str | None,
        typer.Option(
            "--exec",
            metavar="CMD",
            help="Run CMD by the shell for each job, its value on standard input. Exit code 0 is "
            "done; any other is a failure, with the end of what it wrote to stderr as reason.",
        ),
    ] = None,
    count: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Stop after N jobs, done or failed.")
    ] = None,
    concurrency: Annotated[
        int,
        typer.Option(
            min=1, max=MEMBERS_PER_SESSION_MAX, metavar="N", help="With --exec: so many at a time."
        ),
    ] = 1,
    prefetch: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=PREFETCH_RECORDS_MAX,
            metavar="N",
            help="Hold at most N jobs; with --exec as many as run at a time.",
        ),
    ] = None,
    max_time: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="With --exec: a command that takes longer has failed."),
    ] = None,
    output: Annotated[
        Format,
        typer.Option("--format", help="text: a line to read. raw: the value and a newline."),
    ] = Format.text,
    ack_timeout: AckTimeoutOption = "30s",
    timeout: Annotated[float, typer.Option(help="Seconds to wait for the node.", min=0.1)] = 5.0,
    url: UrlOption = None,
    mesh: MeshOption = "local",
    insecure: InsecureOption = False,
    json: JsonOption = False,
) -> None:
    """Take jobs of a queue: show each and ack it, or run a command for each, until Ctrl-C.

    The command finds MESHMQ_QUEUE, MESHMQ_JOB, MESHMQ_KEY and MESHMQ_ATTEMPT in its environment.
    It may take any time: the job stays this worker's while the command runs. Ctrl-C and SIGTERM
    finish what runs and return the rest; a second one ends what runs and returns that as well.
    """  # fmt: skip
    name = queue_argument(name)
    if command is None and (concurrency != 1 or max_time is not None):
        raise typer.BadParameter("--concurrency and --max-time go with --exec", param_hint="--exec")
    seconds = parse_seconds(ack_timeout, "--ack-timeout")
    limit = None if max_time is None else parse_seconds(max_time, "--max-time")
    most = prefetch or (SHOW_PREFETCH if command is None else concurrency)
    if count is not None:
        most = min(most, count)
    share = max(1, most // concurrency)
    target = Target(url, mesh, insecure, json, timeout)
    with (
        connected(target, on_state=StateTeller(), works=True) as connection,
        ExitStack() as members,
    ):
        is_new = not _is_there(connection, name)
        consumers = [
            members.enter_context(connection.work(name, ack_timeout=seconds, prefetch=share))
            for _ in range(concurrency)
        ]
        if is_new:  # a misspelt queue looks like silence
            note(f"made queue '{name}', it was not there: waiting for jobs")
        elif count is None:  # with a count there is an end, and what was done is said there
            note(f"taking jobs of '{name}'; Ctrl-C ends it")
        if command is None:
            show_and_ack(consumers[0], renderer(output, json, job_object), count, timeout, "job")
            return
        from meshmq.cli.running import Runner

        Runner(consumers, command, count, limit, json, url, timeout).run()


def _is_there(connection: Mesh, name: str) -> bool:
    try:
        connection.admin.queues.show(name)
    except GroupNotFound:
        return False
    return True
