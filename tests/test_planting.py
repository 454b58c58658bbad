"""A planted bug that cannot be called is told, and is no fault that a world has noticed."""

from __future__ import annotations

from typing import Any

import pytest

from tests.planting import Planted


class Core:
    def step(self, count: int) -> int:
        return count


class World:
    def run(self) -> None:
        Core().step(1)


BUGS = Planted()


@BUGS.register(Core, "step")
def with_an_old_signature(real: Any, self: Any, count: int, more: int) -> int:
    return count


@BUGS.register(Core, "step")
def with_an_error_of_its_own(real: Any, self: Any, count: int) -> int:
    return len(count)  # type: ignore[arg-type]


def test_a_bug_that_cannot_be_called_is_told() -> None:
    with BUGS["with_an_old_signature"](), pytest.raises(pytest.fail.Exception, match="proves"):
        BUGS.faults_of(World(), [])


def test_an_error_of_a_bug_is_a_fault_but_none_that_a_checker_noticed() -> None:
    with BUGS["with_an_error_of_its_own"]():
        assert BUGS.faults_of(World(), []) == ["TypeError: object of type 'int' has no len()"]
        assert BUGS.faults_of(World(), [], only="order") == []
    assert BUGS.faults_of(World(), []) == []
