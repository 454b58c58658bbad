from __future__ import annotations

import importlib.util
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

import meshmq
from meshmq.testing import LocalNode
from tests.integration.sites import joined

_spec = importlib.util.spec_from_file_location("nodes", Path(__file__).with_name("nodes.py"))
nodes = importlib.util.module_from_spec(_spec)
sys.modules.setdefault("nodes", nodes)
_spec.loader.exec_module(nodes)


@pytest.fixture
def node(tmp_path):
    running = LocalNode(tmp_path / "data")
    yield running
    running.stop()


@pytest.fixture
def programs():
    """Makes programs, and closes them."""
    with ExitStack() as stack:
        yield lambda **options: stack.enter_context(meshmq.connect(**options))


@pytest.fixture
def process_node(tmp_path):
    running = nodes.ProcessNode(tmp_path / "process" / "data")
    yield running
    running.stop()


@pytest.fixture
def site(tmp_path):
    """Three nodes that are joined."""
    with joined(tmp_path, 3) as made:
        yield made
