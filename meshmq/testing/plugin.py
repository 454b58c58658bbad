"""The pytest fixtures, registered by the package: nothing to import in a test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from meshmq.testing.local import LocalNode
    from meshmq.testing.simulated import Simulation


@pytest.fixture
def meshmq_node(tmp_path: Path) -> Iterator[LocalNode]:
    """A real node in this process, with its log in ``tmp_path``; stopped after the test."""
    from meshmq.testing.local import LocalNode

    with LocalNode(tmp_path / "meshmq") as node:
        yield node


@pytest.fixture
def meshmq_simulation() -> Simulation:
    """A node and clients on virtual time; ``.connect()`` gives a client."""
    from meshmq.testing.simulated import Simulation

    return Simulation()
