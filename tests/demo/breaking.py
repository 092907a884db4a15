"""Runs that break off where a test wants them to."""

from collections.abc import Callable
from typing import Any

import pytest


class BrokenOff(Exception):
    """Stands for a process that was killed."""


def watch(
    patch: pytest.MonkeyPatch, owner: Any, name: str, *broken: int, behind: bool = False
) -> list[int]:
    """The calls of `owner.name` from now on, 1, 2, …; those in `broken` raise, once they did their
    work where `behind`."""
    work: Callable[..., Any] = getattr(owner, name)
    calls: list[int] = []

    def call(*args: Any, **kwargs: Any) -> Any:
        calls.append(len(calls) + 1)
        breaks = calls[-1] in broken
        if breaks and not behind:
            raise BrokenOff(name)
        result = work(*args, **kwargs)
        if breaks:
            raise BrokenOff(name)
        return result

    patch.setattr(owner, name, call)
    return calls
