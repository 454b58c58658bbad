"""A real node inside the test's process, for tests of programs.

The pytest fixtures come with the package: ``meshmq_node`` (a LocalNode with its log in the test's
temporary directory) and ``meshmq_simulation`` (a Simulation).
"""

from __future__ import annotations

import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from meshmq.shell.runner import NodeConfig, NodeRunner

if TYPE_CHECKING:
    from meshmq.aio import Mesh as AsyncMesh
    from meshmq.aio import Opening
    from meshmq.client.mesh import Mesh


class LocalNode:
    """A running node, by default on a free port of loopback. Stop it, or use it in ``with``.

    Attributes:
        url: where clients reach it; the same after ``restart``.
        data: its log's directory.
    """

    def __init__(
        self,
        data: Path,
        *,
        mesh: str = "local",
        name: str = "test",
        listen: str = "tcp://127.0.0.1:0",
    ) -> None:
        self.data = Path(data)
        self.url = listen
        self._mesh = mesh
        self._name = name
        self._runner: NodeRunner | None = None
        self._thread: threading.Thread | None = None
        self._failure: BaseException | None = None
        self.start()

    def start(self) -> None:
        """Start it, where it was if it ran before."""
        config = NodeConfig(name=self._name, data=self.data, mesh=self._mesh, listen=self.url)
        self._runner = NodeRunner(config)
        self.url = self._runner.url
        self._thread = threading.Thread(target=self._run, name="meshmq-node", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        assert self._runner is not None
        try:
            self._runner.run()
        except BaseException as error:
            self._failure = error

    def stop(self) -> None:
        """Stop it in order; raise what it failed with, if it did. Safe to call twice."""
        if self._runner is None or self._thread is None:
            return
        self._runner.stop()
        self._thread.join(20)
        assert not self._thread.is_alive(), "the node did not stop within 20 s"
        self._runner = self._thread = None
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure

    def restart(self) -> None:
        """Stop and start; clients reconnect by themselves."""
        self.stop()
        self.start()

    def connect(self, **options: Any) -> Mesh:
        """``meshmq.connect`` to this node."""
        from meshmq.client.mesh import connect

        return connect(self.url, mesh=self._mesh, **options)

    def aconnect(self, **options: Any) -> Opening[AsyncMesh]:
        """``meshmq.aio.connect`` to this node."""
        from meshmq.aio import connect

        return connect(self.url, mesh=self._mesh, **options)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()
