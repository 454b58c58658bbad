"""``meshmq queue``: make, list, steer and delete queues; see queue_put and queue_work for jobs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from meshmq.cli import queue_put, queue_work
from meshmq.cli.group import tell, tell_created, tell_details, tell_listing
from meshmq.cli.group_options import (
    AtOption,
    BackoffMaxOption,
    BackoffOption,
    DedupOption,
    MaxBytesOption,
    MaxDeliveriesOption,
    MaxHeldOption,
    MaxRecordsOption,
    Order,
    QueueArgument,
    RateOption,
    YesOption,
    confirm,
    settings_option,
)
from meshmq.cli.options import (
    InsecureOption,
    JsonOption,
    MeshOption,
    Target,
    UrlOption,
    connected,
    parse_due,
    parse_seconds,
    queue_argument,
)
from meshmq.cli.output import plural

if TYPE_CHECKING:
    from meshmq import Mesh

app = typer.Typer(help="Work queues: put and do jobs, list and steer queues.")
app.command("put")(queue_put.put)
app.command("work")(queue_work.work)

JobArgument = Annotated[str, typer.Argument(metavar="JOB", help="The job's id, as put printed it.")]


@app.command()
def create(
    name: QueueArgument,
    order: Annotated[
        Order, typer.Option(help="any, or key: each key's jobs one after the other, no priorities.")
    ] = Order.any,
    max_deliveries: MaxDeliveriesOption = None,
    backoff: BackoffOption = None,
    backoff_max: BackoffMaxOption = None,
    max_held: MaxHeldOption = None,
    rate: RateOption = None,
    max_records: MaxRecordsOption = None,
    max_bytes: MaxBytesOption = None,
    dedup_window: DedupOption = None,
    url: UrlOption = None,
    mesh: MeshOption = "local",
    insecure: InsecureOption = False,
    json: JsonOption = False,
) -> None:
    """Make a queue before its first job; one that is there stays as it is."""
    name = queue_argument(name)
    settings = settings_option(
        backoff, backoff_max, dedup_window, max_deliveries=max_deliveries, max_held=max_held,
        rate=rate, max_records=max_records, max_bytes=max_bytes,
    )  # fmt: skip
    with connected(Target(url, mesh, insecure, json)) as connection:
        made = connection.admin.queues.create(name, order=order.value, **settings)
    tell_created(made, "queue", json)


@app.command("list")
def list_queues(
    url: UrlOption = None,
    mesh: MeshOption = "local",
    insecure: InsecureOption = False,
    json: JsonOption = False,
) -> None:
    """List the node's queues: how much is ready, out, delayed, waiting for a retry, dead."""
    with connected(Target(url, mesh, insecure, json)) as connection:
        queues = connection.admin.queues.list()
    tell_listing(queues, "queue", json)


@app.command()
def show(
    name: QueueArgument,
    url: UrlOption = None,
    mesh: MeshOption = "local",
    insecure: InsecureOption = False,
    json: JsonOption = False,
) -> None:
    """Show one queue: its jobs by where they are, settings and workers with what each holds."""
    name = queue_argument(name)
    with connected(Target(url, mesh, insecure, json)) as connection:
        report = connection.admin.queues.show(name)
    tell_details(report, json)


@app.command("set")
def set_queue(
    name: QueueArgument,
    max_deliveries: MaxDeliveriesOption = None,
    backoff: BackoffOption = None,
    backoff_max: BackoffMaxOption = None,
    max_held: MaxHeldOption = None,
    rate: RateOption = None,
    max_records: MaxRecordsOption = None,
    max_bytes: MaxBytesOption = None,
    dedup_window: DedupOption = None,
    url: UrlOption = None,
    mesh: MeshOption = "local",
    insecure: InsecureOption = False,
    json: JsonOption = False,
) -> None:
    """Change settings of a queue."""
    name = queue_argument(name)
    settings = settings_option(
        backoff, backoff_max, dedup_window, max_deliveries=max_deliveries, max_held=max_held,
        rate=rate, max_records=max_records, max_bytes=max_bytes,
    )  # fmt: skip
    if not settings:
        raise typer.BadParameter("give a setting, like --rate 100", param_hint="QUEUE")
    with connected(Target(url, mesh, insecure, json)) as connection:
        _only_queue(connection, name)
        report = connection.admin.queues.set(name, **settings)
    tell_details(report, json)


@app.command()
def purge(
    name: QueueArgument,
    yes: YesOption = False,
    url: UrlOption = None,
    mesh: MeshOption = "local",
    insecure: InsecureOption = False,
    json: JsonOption = False,
) -> None:
    """Remove the jobs that wait, due or not; what workers hold they may finish."""
    name = queue_argument(name)
    confirm(f"Remove all jobs that wait in '{name}'?", yes)
    with connected(Target(url, mesh, insecure, json)) as connection:
        count = connection.admin.queues.purge(name)
    tell(f"purged {plural(count, 'job')} of queue {name}", {"queue": name, "purged": count}, json)


@app.command()
def delete(
    name: QueueArgument,
    yes: YesOption = False,
    url: UrlOption = None,
    mesh: MeshOption = "local",
    insecure: InsecureOption = False,
    json: JsonOption = False,
) -> None:
    """Delete a queue with its jobs and its dead letters, for good."""
    name = queue_argument(name)
    confirm(f"Delete queue '{name}' with its jobs and dead letters?", yes)
    with connected(Target(url, mesh, insecure, json)) as connection:
        _only_queue(connection, name)
        connection.admin.queues.delete(name)
    tell(f"deleted queue {name}", {"deleted": name}, json)


@app.command()
def pause(
    name: QueueArgument,
    url: UrlOption = None,
    mesh: MeshOption = "local",
    insecure: InsecureOption = False,
    json: JsonOption = False,
) -> None:
    """Hand out nothing until `resume`; what is out may be finished, jobs may be put."""
    name = queue_argument(name)
    with connected(Target(url, mesh, insecure, json)) as connection:
        _only_queue(connection, name)
        told = connection.admin.queues.pause(name)
    tell(f"paused queue {name}", told, json)


@app.command()
def resume(
    name: QueueArgument,
    url: UrlOption = None,
    mesh: MeshOption = "local",
    insecure: InsecureOption = False,
    json: JsonOption = False,
) -> None:
    """Go on after `pause`."""
    name = queue_argument(name)
    with connected(Target(url, mesh, insecure, json)) as connection:
        _only_queue(connection, name)
        told = connection.admin.queues.resume(name)
    tell(f"resumed queue {name}", told, json)


@app.command()
def cancel(
    name: QueueArgument,
    job: JobArgument,
    url: UrlOption = None,
    mesh: MeshOption = "local",
    insecure: InsecureOption = False,
    json: JsonOption = False,
) -> None:
    """Remove a job that waits, due or not."""
    name = queue_argument(name)
    with connected(Target(url, mesh, insecure, json)) as connection:
        connection.cancel(name, job)
    tell(f"cancelled {job}", {"queue": name, "cancelled": job}, json)


@app.command()
def reschedule(
    name: QueueArgument,
    job: JobArgument,
    delay: Annotated[
        str | None, typer.Option(metavar="TIME", help="Due so long from now, as 10s; 0: at once.")
    ] = None,
    at: AtOption = None,
    url: UrlOption = None,
    mesh: MeshOption = "local",
    insecure: InsecureOption = False,
    json: JsonOption = False,
) -> None:
    """Have a job that waits due at another time."""
    name = queue_argument(name)
    if (delay is None) == (at is None):
        raise typer.BadParameter("give either --delay or --at", param_hint="--delay")
    seconds = None if delay is None else parse_seconds(delay, "--delay")
    time = None if at is None else parse_due(at, "--at")
    with connected(Target(url, mesh, insecure, json)) as connection:
        connection.reschedule(name, job, delay=seconds, at=time)
    tell(f"rescheduled {job}", {"queue": name, "rescheduled": job}, json)


def _only_queue(connection: Mesh, name: str) -> None:
    """Refuse a group of that name, which has commands of its own."""
    connection.admin.queues.show(name)
