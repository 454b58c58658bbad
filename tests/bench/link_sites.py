"""Sites on loopback that are linked over a relay, for measurements of links."""

from __future__ import annotations

import signal
import threading
import time
from typing import Any

import meshmq
from meshmq.bench.procs import BenchError, Node, Team


class LinkedNode(Node):
    """The one node of a site, whose configuration may change while it runs."""

    def __init__(self, team: Team, site: str) -> None:
        self.site = site
        self._config = team.path(f"{site}.toml")
        self._config.write_text("")
        super().__init__(team, name=f"{site}-1", site=site, config=self._config)

    def pull(self, site: str, endpoint: str, topics: list[str], **more: Any) -> None:
        """Mirror topics of another site from now on; ``more`` are keys of the link."""
        lines = [f"{key} = {_toml(value)}" for key, value in more.items()]
        self._config.write_text(
            "\n".join(
                ["[[link]]", f'to = "{site}"', f'endpoints = ["{endpoint}"]',
                 f"topics = {_toml(topics)}", *lines, ""]
            )
        )  # fmt: skip
        self.process.popen.send_signal(signal.SIGHUP)

    def let_go(self) -> None:
        """Pull nothing any more."""
        self._config.write_text("")
        self.process.popen.send_signal(signal.SIGHUP)


def _toml(value: Any) -> str:
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return f'"{value}"' if isinstance(value, str) else str(value)


def mirrored(mesh: meshmq.Mesh, site: str) -> tuple[int, int]:
    """Records of a site that have come since the node's start, and how many it is behind."""
    for row in mesh.admin.status()["site"]["links"]:
        if row["to"] == site:
            logs = row["logs"]
            return sum(log["received"] for log in logs), sum(
                sum(log["lag"].values()) for log in logs
            )
    return 0, 0


class Watch(threading.Thread):
    """Samples (monotonic s, records mirrored) of a node until ``total`` have come."""

    def __init__(self, url: str, site: str, total: int, every_s: float, bound_s: float) -> None:
        super().__init__(name="watch", daemon=True)
        self._url, self._site, self._total = url, site, total
        self._every_s, self._bound_s = every_s, bound_s
        self.samples: list[tuple[float, int]] = []
        self.start()

    def run(self) -> None:
        until = time.monotonic() + self._bound_s
        with meshmq.connect(self._url, route="node", timeout=30) as mesh:
            while time.monotonic() < until:
                before = time.monotonic()
                count, _ = mirrored(mesh, self._site)
                self.samples.append(((before + time.monotonic()) / 2, count))
                if count >= self._total:
                    return
                time.sleep(self._every_s)

    def rate(self) -> tuple[float, float]:
        """Records a second between a tenth and the end, and seconds from the first look to the end.

        Raises BenchError if not all came.
        """
        self.join()
        if not self.samples or self.samples[-1][1] < self._total:
            last = self.samples[-1][1] if self.samples else 0
            raise BenchError(f"{last:,} of {self._total:,} records were mirrored in time")
        begun = next(i for i, (_, count) in enumerate(self.samples) if count >= self._total // 10)
        (at, count), (end, total) = self.samples[begun], self.samples[-1]
        first = self.samples[0][0]
        if end == at:
            return total / (end - first), end - first
        return (total - count) / (end - at), end - first


def publish_all(url: str, topic: str, count: int, size: int, chunk: int = 1000) -> float:
    """Publish as fast as it goes; seconds until all is confirmed."""
    values = [i.to_bytes(8, "big") + bytes(size - 8) for i in range(chunk)]
    with meshmq.connect(url, route="node", timeout=60) as mesh:
        mesh.publish_many(topic, values[:1]).wait(60)
        begin = time.monotonic()
        for _ in range((count - 1) // chunk):
            mesh.publish_many(topic, values)
        mesh.publish_many(topic, values[: (count - 1) % chunk] or values[:1])
        mesh.flush(300)
        return time.monotonic() - begin
