"""The same work by meshmq and by others, in one run: ``python -m tests.bench.compare``.

Every system is measured in every repetition, so that a slow minute of the machine hits all of
them. A complete run leaves ``tests/bench/results/compare-<date>.json``; ``--write-docs`` then
puts the newest one into docs/performance.md.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from meshmq.bench.procs import BenchError
from meshmq.bench.target import Settings
from tests.bench import about, report
from tests.bench.peers.common import Skipped
from tests.bench.row import Entry, Row
from tests.bench.rows import ROWS

QUICK = Settings(seconds=1.0, records=300_000)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.compare", description=__doc__)
    parser.add_argument("--only", help=f"rows, comma separated, of: {', '.join(ROWS)}")
    parser.add_argument("--repeat", type=int, default=3, help="runs of everything (default 3)")
    parser.add_argument("--seconds", type=float, default=3.0, help="length of a run (default 3)")
    parser.add_argument(
        "--records", type=int, default=5_000_000, help="records stored (default 5,000,000)"
    )
    parser.add_argument("--quick", action="store_true", help="short runs, once: to check only")
    parser.add_argument("--ours", action="store_true", help="leave the others out")
    parser.add_argument("--dir", type=Path, help="where all data go meanwhile")
    parser.add_argument("--json", type=Path, help="write the result here instead")
    parser.add_argument(
        "--write-docs", action="store_true", help="measure nothing; docs from the newest result"
    )
    return parser.parse_args()


def _chosen(only: str | None) -> list[Row]:
    if not only:
        return list(ROWS.values())
    wrong = [key for key in only.split(",") if key not in ROWS]
    if wrong:
        raise SystemExit(f"no row {', '.join(wrong)}; there are {', '.join(ROWS)}")
    return [ROWS[key] for key in only.split(",")]


def _measure(entry: Entry, settings: Settings, found: dict[str, Any]) -> str:
    """One run of one entry into ``found``; returns what to say about it."""
    try:
        figures = entry.run(settings)
    except Skipped as reason:
        found["skipped"] = str(reason)
        return f"skipped: {reason}"
    except Exception as error:  # one system's failure must not end the others' run
        found.setdefault("skipped", f"failed: {error}"[:300])
        if isinstance(error, BenchError):
            print(error.details, file=sys.stderr)
        return f"failed: {type(error).__name__}: {error}"
    found["runs"].append(figures)
    return ", ".join(f"{name} {report.number(value)}" for name, value in figures.items())


def _run(rows: list[Row], settings: Settings, repeat: int, ours: bool) -> dict[str, Any]:
    results: dict[str, Any] = {row.key: {} for row in rows}
    for i in range(repeat):
        for row in rows:
            for entry in row.entries:
                if ours and not entry.is_ours:
                    continue
                found = results[row.key].setdefault(entry.key, {"runs": []})
                said = _measure(entry, replace(settings, size=row.size), found)
                print(f"[{i + 1}/{repeat}] {row.key:15} {entry.label:32} {said}", flush=True)
    return results


def main() -> int:
    options = _arguments()
    if options.write_docs:
        print(f"wrote {report.write_docs().name}")
        return 0
    rows = _chosen(options.only)
    repeat = 1 if options.quick else options.repeat
    settings = (
        QUICK if options.quick else Settings(seconds=options.seconds, records=options.records)
    )
    settings = replace(settings, directory=options.dir)
    document: dict[str, Any] = {
        "date": about.date(),
        "commit": about.commit(),
        "machine": about.machine(options.dir or Path(tempfile.gettempdir())),
        "versions": about.versions(),
        "settings": {
            "repeat": repeat,
            "seconds": settings.seconds,
            "records": settings.records,
            "quick": options.quick,
        },
    }
    document["rows"] = _run(rows, settings, repeat, options.ours)
    report.print_tables(document)
    complete = not (options.quick or options.only or options.ours)
    if complete or options.json:
        report.write_result("compare", document, options.json)
    return 0


if __name__ == "__main__":
    raise SystemExit(report.run(main))
