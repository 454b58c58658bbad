"""The doctor's checks of a site: what its nodes say that is not well with them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from meshmq.cli.findings import FAILURE, OK, Finding
from meshmq.cli.output import plural

_TRIED = {
    "behind": "the log of the node is as far as its copies",
    "away": "all nodes of the site are there",
    "refused": "no node is refused",
    "too-few-nodes": "there are as many nodes as are to have what is published",
    "copy": "all copies are caught up",
    "link-paused": "no link with another site is paused",
    "link-down": "each link with another site has a node of it",
    "not-pulled": "mirrors at other sites have what is wished here, or it comes from elsewhere",
    "fenced": "the site is not fenced",
    "mirror": "all mirrors of other sites' logs go on",
    "taken-twice": "no two sites have taken over the same work",
    "unreadable": "all records of a node that was taken over can be read",
    "not-mended": "damaged batches are had again from another node",
    "clock": "the clocks of all nodes agree",
}


def check_sites(reports: list[dict[str, Any]]) -> Iterator[Finding]:
    """What nodes have said in ``status``; one may tell of all others of its site."""
    seen: dict[str, dict[tuple[str, str], tuple[dict[str, Any], set[str]]]] = {}
    nodes: dict[str, set[str]] = {}
    for report in reports:
        if report.get("site") is None:
            continue
        site = report["site"]["name"]
        found = seen.setdefault(site, {})
        me = {**report["node"], "problems": report.get("problems", [])}
        others = [{**row, "name": row["node"]} for row in report.get("nodes", ())]
        for node in [me, *others]:
            nodes.setdefault(site, set()).add(node["name"])
            for row in node.get("problems", ()):
                told, by = found.get((row["problem"], row["about"]), (row, set()))
                worst = row if row["level"] == FAILURE else told
                found[row["problem"], row["about"]] = worst, by | {node["name"]}
    for site, found in seen.items():
        for (problem, about), (row, by) in found.items():
            tried = _TRIED.get(problem, "the node finds nothing wrong")
            words = f"{row['seen']} (says {', '.join(sorted(by))})"
            check = f"site {site}, {problem} {about}"
            yield Finding(check, row["level"], tried, words, row["remedy"])
        if not found:
            names = ", ".join(sorted(nodes[site]))
            there = f"{plural(len(nodes[site]), 'node')} ({names})"
            yield Finding(f"site {site}", OK, "its nodes find nothing wrong", there)
