"""What the tests of planted bugs share: bugs by name, and how a test or a world meets one.

Most seeds of a world do not notice most bugs. ``simulation/planted_seeds.txt`` has for each bug one
that did when they were last looked for, with ``python -m tests.simulation.find_seeds``; it is
played first. Where the core or the world has changed since, it may not notice the bug any more:
then others are played, as for a bug that is new, until one does.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

SEEDS_FILE = Path(__file__).parent / "simulation" / "planted_seeds.txt"


def known_seeds() -> dict[str, dict[str, int]]:
    """By world and bug (see ``Planted.key``) the seed that noticed it."""
    known: dict[str, dict[str, int]] = {}
    for line in SEEDS_FILE.read_text().splitlines():
        if line and not line.startswith("#"):
            world, key, seed = line.split()
            known.setdefault(world, {})[key] = int(seed)
    return known


class Planted(dict[str, Callable[[], AbstractContextManager[Any]]]):
    """Bugs by name: ``with planted[name]():`` the core has one.

    Args: for bugs that seeds notice
        world: whose seeds, as ``SEEDS_FILE`` names it.
        faults: plays one and says what is wrong; all of it, or what one checker says.
        others: seeds to play where the one that is known does not notice a bug.

    Attributes:
        about: what else was said of each where it was registered.
    """

    def __init__(
        self,
        world: str = "",
        faults: Callable[[int, str], list[str]] = lambda seed, checker: [],
        others: Iterable[int] = (),
    ) -> None:
        super().__init__()
        self.about: dict[str, tuple[Any, ...]] = {}
        self.world = world
        self.faults = faults
        self.others = tuple(others)
        self._known = known_seeds().get(world, {}) if world else {}

    @staticmethod
    def key(name: str, checker: str = "") -> str:
        """How ``SEEDS_FILE`` names a bug, or that ``checker`` notices it by itself."""
        return f"{checker}:{name}" if checker else name

    def noticing(self, name: str, checker: str = "", seeds: Iterable[int] = ()) -> int | None:
        """A seed that notices this bug, if one of those that are played does: the known one and
        ``others``, or ``seeds``; with ``checker``: where this one does by itself."""
        known = self._known.get(self.key(name, checker))
        first = [] if known is None else [known]
        with self[name]():
            tried = dict.fromkeys(seeds or [*first, *self.others])
            return next((seed for seed in tried if self.faults(seed, checker)), None)

    def register(
        self, owner: Any, name: str, *about: Any
    ) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        """Register the decorated function as a bug in ``owner``; it gets the original first."""

        def add(bug: Callable[..., Any]) -> Callable[..., Any]:
            original = getattr(owner, name)

            def buggy(*args: Any, **kwargs: Any) -> Any:
                try:
                    return bug(original, *args, **kwargs)
                except TypeError as error:
                    if error.__traceback__ is not None and error.__traceback__.tb_next is None:
                        # It was not even called. No world takes this for a fault it has noticed.
                        pytest.fail(f"a bug that cannot be called proves nothing: {error}")
                    raise

            self[bug.__name__] = lambda: patch.object(owner, name, buggy)
            self.about[bug.__name__] = about
            return bug

        return add

    def noticed_by(self, checker: str) -> str:
        """The last bug that was registered with the name of a checker that notices it by itself."""
        return [name for name, about in self.about.items() if about == (checker,)][-1]

    def faults_of(
        self, world: Any, checkers: Iterable[Callable[[Any], Iterator[str]]], only: str = ""
    ) -> list[str]:
        """What ``checkers``, or ``only`` the one of that name, say of a world when it was played.
        An error of the core is a fault, too, though none that a checker has noticed."""
        try:
            world.run()
        except Exception as error:
            return [] if only else [f"{type(error).__name__}: {error}"]
        return [
            fault
            for checker in checkers
            if only in ("", checker.__name__)
            for fault in checker(world)
        ]

    def check(self, name: str, faults_of: Callable[[int, str], list[str]]) -> None:
        """That a bug is noticed: by the checker it was registered with, in one of the seeds behind
        that; without a checker: by the scene there, which fails with it."""
        checker, *hows = self.about[name]
        with self[name]():
            if not checker:
                with pytest.raises(AssertionError):
                    play_test(hows[0])
                return
            found = any(faults_of(seed, checker) for seed in hows)
        assert found, f"{checker} does not notice {name}"


def play_test(test: Any) -> None:
    """Run a test as pytest would, with each of its arguments."""
    cases: list[dict[str, Any]] = [{}]
    for mark in getattr(test, "pytestmark", []):
        names = [mark.args[0]] if isinstance(mark.args[0], str) else list(mark.args[0])
        values = [v if len(names) > 1 else (v,) for v in mark.args[1]]
        cases = [
            {**case, **dict(zip(names, value, strict=True))} for case in cases for value in values
        ]
    for case in cases:
        with pytest.MonkeyPatch.context() as monkeypatch:
            if "monkeypatch" in inspect.signature(test).parameters:
                case["monkeypatch"] = monkeypatch
            test(**case)
