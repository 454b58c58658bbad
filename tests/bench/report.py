"""Results as a table on the terminal, and as the generated part of docs/performance.md."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from meshmq.bench.procs import BenchError, ended_by_signals
from meshmq.errors import MeshError
from tests.bench import about
from tests.bench.row import Entry, Goal, Medians, Row
from tests.bench.rows import ROWS, medians_of

RESULTS = Path(__file__).resolve().parent / "results"
DOCUMENT = about.ROOT / "docs" / "performance.md"
BEGIN, END = "<!-- generated: begin -->", "<!-- generated: end -->"
COLUMNS = ("work", "system", "confirms", "median", "lowest to highest", "ours / theirs")
Document = dict[str, Any]


def number(value: float) -> str:
    """Short, with thousands separators: 1,234,567, 0.42."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _ratio(row: Row, entry: Entry, medians: Medians) -> str:
    if entry.is_ours:
        return ""
    theirs = medians[entry.key].get(row.figure)
    ours = [medians[e.key][row.figure] for e in row.entries if e.is_ours and e.key in medians]
    return " / ".join(f"{value / theirs:.2f}" for value in ours) if theirs else ""


def _entry_line(row: Row, entry: Entry, measured: Document, medians: Medians) -> list[str]:
    found = measured.get(entry.key, {})
    runs = found.get("runs", [])
    if not runs:
        return ["", entry.label, "", "-", found.get("skipped", "not measured"), ""]
    seen = [run[row.figure] for run in runs]
    figure = f"{number(medians[entry.key][row.figure])} {row.unit}"
    if row.figure not in ("rate",):
        figure = f"{row.figure} {figure}"
    span = f"{number(min(seen))} to {number(max(seen))}" if len(seen) > 1 else "one run"
    extra = [
        f"{name} {number(medians[entry.key][name])} {unit}"
        for name, unit in row.others
        if name in medians[entry.key]
    ]
    if extra:
        span += "; " + ", ".join(extra)
    return ["", entry.label, entry.confirms, figure, span, _ratio(row, entry, medians)]


def measured_lines(document: Document) -> Iterator[list[str]]:
    """The lines of the first table, COLUMNS wide; a row's title only on its first line."""
    for key, measured in document["rows"].items():
        row = ROWS[key]
        medians = medians_of({name: one.get("runs", []) for name, one in measured.items()})
        title = row.title
        for entry in row.entries:
            if entry.key in measured:  # left out on purpose: not in the run at all
                line = _entry_line(row, entry, measured, medians)
                line[0], title = title, ""
                yield line
        if row.note:
            yield ["", f"({row.note})", "", "", "", ""]


def _goal_text(goal: Goal, row: Row, medians: Medians) -> str:
    bound = goal.bound(medians)
    words = "at least" if goal.at_least else "at most"
    name = "" if goal.figure == "rate" else f"{goal.figure} "
    labels = {entry.key: entry.label for entry in row.entries}
    label = labels.get(goal.entry, goal.entry)
    if bound is None:
        return f"{label}: {name}{words} {goal.text}"
    text = f"{label}: {name}{words} {number(bound)}"
    return f"{text} ({goal.text})" if goal.text else text


def goal_lines(document: Document) -> Iterator[list[str]]:
    """Work, goal, reached, and "met", "not met" or "not measured"."""
    for key, measured in document["rows"].items():
        row = ROWS[key]
        medians = medians_of({name: one.get("runs", []) for name, one in measured.items()})
        for i, goal in enumerate(row.goals):
            value = medians.get(goal.entry, {}).get(goal.figure)
            verdict = {True: "met", False: "**not met**", None: "not measured"}
            yield [
                row.title if i == 0 else "",
                _goal_text(goal, row, medians),
                "-" if value is None else number(value),
                verdict[goal.is_met(medians)],
            ]


def print_tables(document: Document) -> None:
    console = Console(width=None if Console().is_terminal else 160)
    table = Table(title="measured in one run")
    for column in COLUMNS:
        right = column in ("median", "ours / theirs")
        table.add_column(column, justify="right" if right else "left")
    for line in measured_lines(document):
        if line[0]:
            table.add_section()
        table.add_row(*line)
    console.print(table)
    goals = Table(title="goals")
    for column in ("work", "goal", "reached", ""):
        goals.add_column(column)
    for line in goal_lines(document):
        if line[0]:
            goals.add_section()
        goals.add_row(*line[:3], line[3].strip("*"))
    console.print(goals)


def _markdown(header: tuple[str, ...], lines: Iterator[list[str]]) -> list[str]:
    out = ["| " + " | ".join(header) + " |", "|" + " --- |" * len(header)]
    for line in lines:
        cells = [cell.replace("|", "\\|").replace("\n", " ") for cell in line]
        out.append("| " + " | ".join(cells) + " |")
    return out


def newest(prefix: str) -> Document | None:
    """The newest result of that kind, by its name, which begins with its date."""
    found = sorted(RESULTS.glob(f"{prefix}-[0-9]*.json"))  # not those of "{prefix}-queue"
    if not found:
        return None
    document: Document = json.loads(found[-1].read_text(encoding="utf-8"))
    document["file"] = found[-1].name
    return document


def _how(document: Document) -> list[str]:
    machine, settings = document["machine"], document["settings"]
    versions = ", ".join(f"{name} {version}" for name, version in document["versions"].items())
    about = (
        f"Measured {document['date']} at commit `{document['commit']}`: {machine['cores']} cores "
        f"({machine['cpu']}), {machine['memory_gib']} GiB, {machine['system']}, data on "
        f"{machine['filesystem']}. Median of {settings['repeat']} runs of "
        f"{settings['seconds']:g} s each, every system in turn in every repetition; replay and "
        f"memory with {settings['records']:,} records stored by us. "
        f"Raw figures: `tests/bench/results/{document['file']}`."
    )
    return [about, "", f"Versions: {versions}.", ""]


def _checks() -> list[str]:
    lines = []
    flights, kills = newest("flights"), newest("kills")
    if flights is not None:
        lines.append(
            f"- {flights['records']:,} real flights published durable with keys from the CLI, the "
            f"node killed {flights['kills']} times meanwhile, replayed: {flights['received']:,} "
            f"came back, {flights['lost']} lost, {flights['doubled']} doubled, "
            f"{flights['out_of_order']} out of order, {flights['changed']} changed "
            f"(`results/{flights['file']}`)."
        )
    if kills is not None:
        lines.append(
            f"- {kills['kills']} kills of a node under load: {kills['confirmed']:,} records "
            f"confirmed, {kills['lost']} lost, {kills['doubled']} doubled, "
            f"{kills['out_of_order']} out of order, {kills['gaps']} gaps in offsets "
            f"(`results/{kills['file']}`)."
        )
    return ["", "Checks on real and hostile runs:", "", *lines] if lines else []


def run(main: Callable[[], int]) -> int:
    """``main()`` as a program: everything it started is ended in any case; its exit code."""
    try:
        with ended_by_signals():
            return main()
    except (BenchError, MeshError) as error:
        print(getattr(error, "details", ""), file=sys.stderr)
        print(f"not measured: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; everything that was started has been ended", file=sys.stderr)
        return 130


def write_result(prefix: str, result: Document, path: str | Path | None) -> None:
    """Write ``result`` to ``path``, or as the newest of its kind."""
    target = Path(path) if path else RESULTS / f"{prefix}-{about.stamp()}.json"
    target.parent.mkdir(exist_ok=True)
    target.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(f"wrote {target.name}")


def write_docs() -> Path:
    """Put the newest results between the marks of docs/performance.md.

    Raises FileNotFoundError if there is no result, ValueError if the marks are not there.
    """
    document = newest("compare")
    if document is None:
        raise FileNotFoundError("no result yet: run `python -m tests.bench.compare` first")
    goals = _markdown(("work", "goal", "reached", "verdict"), goal_lines(document))
    parts = [
        *_how(document),
        *_markdown(COLUMNS, measured_lines(document)),
        "",
        "Goals:",
        "",
        *goals,
        *_checks(),
    ]
    text = DOCUMENT.read_text(encoding="utf-8")
    before, mark, rest = text.partition(BEGIN)
    _, end_mark, after = rest.partition(END)
    if not mark or not end_mark:
        raise ValueError(f"{DOCUMENT.name} has no {BEGIN} ... {END}")
    body = "\n".join(parts)
    DOCUMENT.write_text(f"{before}{BEGIN}\n\n{body}\n\n{END}{after}", encoding="utf-8")
    return DOCUMENT
