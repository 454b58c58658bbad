"""What a measuring process may be asked to do with requests and services (see child.py)."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable
from typing import Any

import meshmq
from meshmq import aio
from meshmq.bench.asking import REPLY_SECONDS, Asking
from meshmq.bench.job import Job, link_of, ready

UP_SECONDS = 20.0
Result = dict[str, Any]


def serve(job: Job) -> Result:
    """Answer each request with its value, until the parent closes our standard input."""
    with meshmq.connect(**link_of(job)) as mesh:
        mesh.serve(job.topic, lambda request: request.value, concurrency=job.options["concurrency"])
        ready()
        sys.stdin.read()
    return {}


def serve_aio(job: Job) -> Result:
    """As ``serve``, from asyncio."""

    async def echo(request: meshmq.Request) -> bytes:
        return request.value

    async def main() -> Result:
        async with aio.connect(**link_of(job)) as mesh:
            mesh.serve(job.topic, echo, concurrency=job.options["concurrency"])
            await _served(mesh, job.topic)
            ready()
            await asyncio.to_thread(sys.stdin.read)
        return {}

    return asyncio.run(main())


async def _served(mesh: aio.Mesh, service: str) -> None:
    """Return once it answers: an asyncio mesh begins to serve in the background."""
    deadline = time.monotonic() + UP_SECONDS
    while True:
        try:
            await mesh.request(service, b"", timeout=REPLY_SECONDS)
            return
        except meshmq.NoResponders:
            if time.monotonic() > deadline:
                raise


def ask(job: Job) -> Result:
    """Ask in one thread, or in as many as requests are to be outstanding."""
    with meshmq.connect(**link_of(job), timeout=REPLY_SECONDS) as mesh:
        asking, request, service = Asking(job), mesh.request, job.topic
        request(service, asking.probe())
        asking.begin()
        asking.by_calls(lambda value: request(service, value).value)
        return asking.result()


def ask_nowait(job: Job) -> Result:
    """Ask in one thread, which has as many under way as requests are to be outstanding."""
    with meshmq.connect(**link_of(job), timeout=REPLY_SECONDS) as mesh:
        asking, request, service = Asking(job), mesh.request_nowait, job.topic

        def ask(value: bytes) -> Callable[[], bytes]:
            result = request(service, value).result
            return lambda: result().value

        mesh.request(service, asking.probe())
        asking.begin()
        asking.by_pending(ask)
        return asking.result()


def ask_aio(job: Job) -> Result:
    """Ask in as many tasks as requests are to be outstanding."""

    async def main() -> Result:
        async with aio.connect(**link_of(job), timeout=REPLY_SECONDS) as mesh:
            asking, request, service = Asking(job), mesh.request, job.topic

            async def call(value: bytes) -> bytes:
                return (await request(service, value)).value

            await call(asking.probe())
            asking.begin()
            await asking.by_tasks(call)
            return asking.result()

    return asyncio.run(main())


ROLES: dict[str, Callable[[Job], Result]] = {
    "serve": serve,
    "serve_aio": serve_aio,
    "ask": ask,
    "ask_nowait": ask_nowait,
    "ask_aio": ask_aio,
}
