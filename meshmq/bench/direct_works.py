"""The workloads of programs that have no node; see works.py."""

from __future__ import annotations

import contextlib
import secrets
import socket
from collections.abc import Iterator
from typing import Any

from meshmq.bench import request_works
from meshmq.bench.job import Job
from meshmq.bench.procs import Team
from meshmq.bench.target import ROLES, Figures, Settings, Target, a_job, received


@contextlib.contextmanager
def _two(settings: Settings) -> Iterator[tuple[Target, dict[str, Any], dict[str, Any]]]:
    """A place without a node; options of who listens and of who dials."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with Team(settings.directory) as team:
        target = Target(team, f"tcp://127.0.0.1:{port}", f"bench.{secrets.token_hex(4)}", 0, 0.0)
        yield target, {"direct": "listen"}, {"direct": "dial"}


def _publish(settings: Settings, many: bool) -> Figures:
    with _two(settings) as (target, listens, dials):
        board = target.team.board()
        reader = a_job(settings, target, board=board, options=listens)
        writer = a_job(settings, target, board=board, options={"many": many, **dials})
        got, sent = target.team.run(ROLES, [("subscribe", reader)], ("publish", writer))
        return received(got, sent)


def publish(settings: Settings) -> Figures:
    """One publisher in a flood, one subscriber, nothing between them."""
    return _publish(settings, many=False)


def publish_many(settings: Settings) -> Figures:
    return _publish(settings, many=True)


def _request(settings: Settings, suffix: str, asks: str = "") -> Figures:
    with _two(settings) as (target, listens, dials):
        more = {"outstanding": settings.outstanding, "concurrency": settings.outstanding}

        def job(link: dict[str, Any]) -> Job:
            return a_job(settings, target, options={**more, **link})

        service = (f"serve{suffix}", job(listens))
        _, found = target.team.run(
            request_works.ROLES, [], (f"ask{asks or suffix}", job(dials)), background=[service]
        )
        return request_works.asked(found)


def request(settings: Settings) -> Figures:
    """A service that echoes and a requester, nothing between them."""
    return _request(settings, "")


def request_nowait(settings: Settings) -> Figures:
    return _request(settings, "", "_nowait")


def request_aio(settings: Settings) -> Figures:
    return _request(settings, "_aio")
