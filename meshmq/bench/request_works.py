"""The workloads of requests and services; see works.py."""

from __future__ import annotations

from typing import Any

from meshmq.bench.target import Figures, Settings, a_job, a_target

ROLES = "meshmq.bench.request_roles"
FIGURES = ("p50", "p99", "rate")


def asked(found: dict[str, Any]) -> Figures:
    """What a requester measured, as figures."""
    return {key: float(found[key]) for key in FIGURES}


def _request(settings: Settings, suffix: str, asks: str = "") -> Figures:
    with a_target(settings) as target:
        # As many places as requests are outstanding: none waits at the node for another's end.
        options = {"outstanding": settings.outstanding, "concurrency": settings.outstanding}
        job = a_job(settings, target, options=options)
        service = (f"serve{suffix}", job)
        _, found = target.team.run(ROLES, [], (f"ask{asks or suffix}", job), background=[service])
        return asked(found)


def request(settings: Settings) -> Figures:
    """A service that echoes, a requester, the node between them, each a process of its own."""
    return _request(settings, "")


def request_nowait(settings: Settings) -> Figures:
    return _request(settings, "", "_nowait")


def request_aio(settings: Settings) -> Figures:
    return _request(settings, "_aio")
