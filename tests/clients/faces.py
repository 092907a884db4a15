"""Both clients as one: what a test asks of `Client` is asked of `AsyncClient` too."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from inspect import isawaitable
from typing import Any, Literal, cast

from fromage_client import AsyncClient, Client

Face = Literal["blocking", "async"]
FACES: tuple[Face, ...] = ("blocking", "async")


class InLoop:
    """An object of the asynchronous interface, used like its blocking twin."""

    def __init__(self, runner: asyncio.Runner, target: Any) -> None:
        self._runner = runner
        self._target = target

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._target, "aclose" if name == "close" else name)
        if not callable(value):
            return self._seen(value)
        return lambda *args, **options: self._seen(self._waited(lambda: value(*args, **options)))

    def __enter__(self) -> "InLoop":
        self._runner.run(self._target.__aenter__())
        return self

    def __exit__(self, *error: Any) -> None:
        self._runner.run(self._target.__aexit__(*error))

    def __iter__(self) -> Iterator[Any]:
        events = aiter(self._target)
        try:
            while (event := self._waited(lambda: anext(events, None))) is not None:
                yield event
        finally:
            if hasattr(events, "aclose"):
                self._waited(events.aclose)

    def _waited(self, work: Callable[[], Any]) -> Any:
        async def await_it() -> Any:
            result = work()
            return await result if isawaitable(result) else result

        return self._runner.run(await_it())

    def _seen(self, value: Any) -> Any:
        own = type(value).__name__.startswith("Async") or hasattr(value, "__aiter__")
        return InLoop(self._runner, value) if own else value


@contextmanager
def client_of(face: Face, url: str, **options: Any) -> Iterator[Client]:
    """A client of that kind; closed at the end."""
    if face == "blocking":
        with Client(url, **options) as client:
            yield client
    else:
        with asyncio.Runner() as runner, InLoop(runner, AsyncClient(url, **options)) as twin:
            yield cast(Client, twin)
