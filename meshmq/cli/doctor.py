"""``meshmq doctor``: what is in the way, and what to do about it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from meshmq.cli.config import data_directory
from meshmq.cli.findings import FAILURE, OK, WARNING, Finding
from meshmq.cli.node_options import DEFAULT_URL
from meshmq.cli.options import InsecureOption, JsonOption, MeshOption, as_usage
from meshmq.cli.output import emit, plural, say
from meshmq.names import check_mesh

LISTEN_S = 2.5  # a node that has just said what it is says it again after a second


def doctor(
    url: Annotated[
        str | None,
        typer.Option(
            "--url",
            envvar="MESHMQ_URL",
            metavar="URL",
            help="A node that should be there, as tcp://HOST:PORT.",
        ),
    ] = None,
    mesh: MeshOption = "local",
    insecure: InsecureOption = False,
    name: Annotated[
        str, typer.Option("--name", help="Name of a node that runs here, or shall run.")
    ] = "node-1",
    data: Annotated[
        Path | None,
        typer.Option(
            "--data", metavar="DIR", help="Directory of that node's log; else as in `meshmq node`."
        ),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Say what works here and what does not, and what to do about it.

    It looks at Python and the libraries, at the directory of a node's log, at
    what each network interface does with mDNS, at who is found, and dials each
    of them; of a site it tells what its nodes find wrong: nodes that are away,
    copies that are missing, a log that is behind. It changes nothing. Exit code
    1: something failed.
    """
    mesh = as_usage(check_mesh, mesh, "--mesh")
    counts = {OK: 0, WARNING: 0, FAILURE: 0}
    for finding in _findings(url, mesh, insecure, data_directory(data, name)):
        counts[finding.level] += 1
        if json:
            emit(finding.row())
        else:
            say("\n".join(_lines(finding)))
    if not json:
        say(_sum(counts))
    if counts[FAILURE]:
        raise typer.Exit(1)


def _findings(url: str | None, mesh: str, insecure: bool, data: Path) -> Iterator[Finding]:
    from meshmq.cli import checks, checks_network, checks_site
    from meshmq.shell.search import Search
    from meshmq.shell.sockets import check_url

    if url is not None:
        check_url(url, bind=False, insecure=insecure, mesh=mesh)
    search = Search(
        mesh, insecure, default=DEFAULT_URL, listed=[url] if url else [], name="meshmq doctor",
        admin=True,
    )  # fmt: skip
    began = time.monotonic()
    search.start()
    try:
        yield from checks.check_host()
        yield from checks.check_data(data)
        yield from checks_network.check_interfaces(mesh, insecure)
        time.sleep(max(0.0, LISTEN_S - (time.monotonic() - began)))
        yield from checks_network.check_discovery(search, mesh)
        yield from checks_network.check_dials(search, mesh, DEFAULT_URL, url)
    finally:
        search.close()
    reports: list[dict[str, Any]] = []
    for address, greeting in sorted(search.greetings.items()):
        if greeting.facts is not None:
            yield checks_network.check_clock(address, mesh, insecure, reports)
    yield from checks_site.check_sites(reports)


def _lines(finding: Finding) -> list[str]:
    if finding.level == OK:
        return [f"ok       {finding.check}: {finding.seen}"]
    return [
        f"{finding.level:8} {finding.check}: {finding.seen}",
        f"         tried:  {finding.tried}",
        f"         to do:  {finding.remedy}",
    ]


def _sum(counts: dict[str, int]) -> str:
    if counts[FAILURE]:
        what = plural(counts[FAILURE], "check")
        more = f", and {plural(counts[WARNING], 'warning')}" if counts[WARNING] else ""
        return f"{what} failed{more}: see what to do above"
    if counts[WARNING]:
        return f"nothing failed, {plural(counts[WARNING], 'warning')}"
    return "all is well"
