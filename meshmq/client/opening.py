"""What can be awaited or used in ``async with``, and what is said where ``with`` was meant."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Generator
from types import TracebackType
from typing import Any, Generic, NoReturn, Protocol, TypeVar


class _Closable(Protocol):
    async def __aenter__(self) -> Any: ...
    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...


T = TypeVar("T", bound=_Closable)


class OnlyAsync:
    """Refuses ``with``, in words."""

    def __enter__(self) -> NoReturn:
        raise TypeError(f"{self!r} is of meshmq.aio: write 'async with' for 'with'")

    def __exit__(self, *error: object) -> None: ...


class OnlySync:
    """Refuses ``async with``, in words."""

    async def __aenter__(self) -> NoReturn:
        raise TypeError(
            f"{self!r} is of the synchronous client: write 'with' for 'async with', or connect "
            f"with 'async with meshmq.aio.connect()'"
        )

    async def __aexit__(self, *error: object) -> None: ...


class Opening(OnlyAsync, Generic[T]):
    """What ``connect`` and ``subscribe`` return: await it, or use it in ``async with``."""

    def __init__(self, opening: Callable[[], Coroutine[Any, Any, T]], call: str) -> None:
        self._opening = opening
        self._call = call
        self._opened: T | None = None

    def __await__(self) -> Generator[Any, None, T]:
        return self._opening().__await__()

    async def __aenter__(self) -> T:
        self._opened = await self._opening()
        return self._opened

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._opened is not None:
            await self._opened.__aexit__(kind, error, trace)

    def __getattr__(self, name: str) -> NoReturn:
        if name.startswith("_"):  # others look for those: copy, inspect, debuggers
            raise AttributeError(name, name=name, obj=self)
        raise AttributeError(
            f"{self!r} has no {name!r}: write 'x = await {self._call}' or "
            f"'async with {self._call} as x' first",
            name=name,
            obj=self,
        )

    def __repr__(self) -> str:
        return f"<{self._call}, not awaited>"
