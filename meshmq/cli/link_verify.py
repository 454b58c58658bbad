"""``meshmq link verify``: whether both sides of a link have the same bytes."""

from __future__ import annotations

import time
from typing import Annotated, Any

import typer

from meshmq import limits
from meshmq.cli.options import (
    InsecureOption,
    JsonOption,
    MeshOption,
    Target,
    UrlOption,
    connected,
    pattern_argument,
)
from meshmq.cli.output import emit, note, say, size

_SHOWN = 100
_MENDED_S = 3.0
"""It is looked whether what is damaged is mended, until nothing more was for so long."""


def verify(
    name: Annotated[str, typer.Argument(metavar="SITE", help="The other site.")],
    topic: Annotated[
        str | None, typer.Option(help="Only topics that match this pattern.", metavar="PATTERN")
    ] = None,
    url: UrlOption = None,
    mesh: MeshOption = "local",
    insecure: InsecureOption = False,
    json: JsonOption = False,
) -> None:
    """Compare what this node and the other site have of the same logs.

    Of each log that this node mirrors from there, and of its own one that is
    mirrored there: both sides read it from their disks, and compare sums of
    its parts; of parts that differ, each batch. No records cross the link.
    What differs is named by topic and offset, with the side whose bytes do
    not match their own checksum: it is mended from the other one, and looked
    at again; what lies in a commit of less than 16 KiB is had from there by
    whoever reads it, and stays as it is on the disk. Run it at each node of the
    site: each has logs of its own.

    Runs beside everything else, reads about 16 MiB at a time, and may be
    interrupted. Ends with 0 if nothing differs, or all that did is mended; else
    with 1.
    """
    if topic is not None:
        pattern_argument(topic)
    total = {"records": 0, "bytes": 0, "differences": 0, "not_mended": 0}
    logs: set[str] = set()
    with connected(Target(url, mesh, insecure, json, limits.VERIFY_NS / limits.SECOND)) as m:
        place: list[Any] | None = None
        while True:
            step = m.admin.verify_link(name, topic, place)
            _note_mended(m, name, step["differences"])
            for row in step["differences"]:
                total["differences"] += 1
                total["not_mended"] += not row["mended"]
                _tell(name, row, total["differences"], json)
            if step["done"]:
                break
            place = step["place"]
            logs.add(step["log"])
            total["records"] += step["records"]
            total["bytes"] += step["bytes"]
    if json:
        emit({"done": True, "site": name, "logs": sorted(logs), **total})
    else:
        say(_sum_of(name, sorted(logs), total))
    if total["not_mended"]:
        raise typer.Exit(1)


def _note_mended(mesh: Any, site: str, rows: list[dict[str, Any]]) -> None:
    """Whether each is the same on both sides, after a while."""
    left = []
    for row in rows:
        row["mended"] = False
        if "damaged" in (row["here"], row["there"]) and row["here"] != row["there"]:
            left.append(row)
    since = time.monotonic()
    while left and time.monotonic() - since < _MENDED_S:
        time.sleep(0.1)
        for row in list(left):
            place = [row["origin"], row["topic_id"], row["offset"], row["offset"] + row["count"]]
            if not mesh.admin.verify_link(site, None, place, one=True)["differences"]:
                row["mended"] = True
                left.remove(row)
                since = time.monotonic()


def _tell(site: str, row: dict[str, Any], count: int, json: bool) -> None:
    if json:
        emit(row)
    elif count <= _SHOWN:
        say(sentence(site, row))
    elif count == _SHOWN + 1:
        note("there are more; --json names all")


def sentence(site: str, row: dict[str, Any]) -> str:
    """A difference, and what is to be done."""
    last = row["offset"] + row["count"] - 1
    some = f"offset {row['offset']}" if row["count"] == 1 else f"offsets {row['offset']} to {last}"
    where = f"topic {row['topic']} of log {row['log']}, {some}"
    here, there = row["here"], row["there"]
    if here == there == "damaged":
        what = "damaged here and there: nobody has it whole; `meshmq log` can repair the log"
    elif "damaged" in (here, there):
        side = "here" if here == "damaged" else f"at {site}/{row['node']}"
        what = f"damaged {side}, " + (
            "mended from the other side" if row["mended"] else
            "which readers get from the other side; on this disk it is not mended (commits of less "
            "than 16 KiB cannot be)"
        )  # fmt: skip
    elif "missing" in (here, there):
        what = "missing " + ("here" if here == "missing" else f"at {site}/{row['node']}")
    else:
        what = (
            "whole on both sides, and not the same: no damage does that; the log's own node "
            "has the right one"
        )
    return f"{where}: {what}"


def _sum_of(site: str, logs: list[str], total: dict[str, int]) -> str:
    if not logs:
        return f"this node and site {site} have no log in common that holds records"
    much = f"{total['records']:,} records, {size(total['bytes'])}"
    same = f"{much} of {', '.join(logs)}"
    if not total["differences"]:
        return f"the same here and at {site}: {same}"
    left = total["not_mended"]
    mended = total["differences"] - left
    return f"{total['differences']} batches differ, {mended} mended, {left} not; compared: {same}"
