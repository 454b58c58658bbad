"""Short runs of what ``python -m tests.chaos.hybrid`` plays: a node that goes, a path that goes."""

from __future__ import annotations

import pytest

from tests.chaos import hybrid
from tests.chaos.hosts import Network, why_not


@pytest.mark.slow
@pytest.mark.parametrize("kill", [False, True], ids=["stopped", "killed"])
def test_programs_go_on_while_their_node_is_away(kill):
    found = hybrid.node_goes(3, 50, kill)
    assert hybrid.faults_of_node_goes(found) == []
    assert found["left_direct"] == 0
    if kill:
        assert found["durable"]["confirmed_while_it_was_away"] == 0


@pytest.mark.root
@pytest.mark.slow
@pytest.mark.skipif(bool(why_not()), reason=why_not())
@pytest.mark.parametrize("both_ways", [True, False], ids=["both-ways", "one-way"])
def test_a_path_that_is_cut_is_gone_round(both_ways):
    try:
        network = Network(3)
    except OSError as error:
        pytest.skip(f"no network namespaces here: {error}")
    with network:
        found = hybrid.path_goes(network, 5, 50, both_ways)
    assert hybrid.faults_of_path_goes(found) == []
