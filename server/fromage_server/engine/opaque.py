"""Functions that a recorder of torch's operations sees as one operation."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import wraps
from typing import Any, ParamSpec

import torch
from torch import Tensor

P = ParamSpec("P")
_library: Any = torch.library.Library("fromage", "FRAGMENT")  # type: ignore[no-untyped-call]
_recording: ContextVar[bool] = ContextVar("whether operations are written down", default=False)
# By operation, what computes it: called as it is, without a detour through torch's dispatcher.
BEHIND: dict[Any, Callable[..., Tensor]] = {}


def opaque(schema: str) -> Callable[[Callable[P, Tensor]], Callable[P, Tensor]]:
    """The decorated function, and within ``recording`` the operation of this ``schema``; its
    arguments are given by position."""

    def decorate(function: Callable[P, Tensor]) -> Callable[P, Tensor]:
        name = schema.partition("(")[0]
        _library.define(schema)
        _library.impl(name, function, "CompositeExplicitAutograd")
        operation = getattr(torch.ops.fromage, name).default
        BEHIND[operation] = function

        @wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> Tensor:
            chosen: Callable[..., Tensor] = operation if _recording.get() else function
            return chosen(*args, **kwargs)

        return call

    return decorate


@contextmanager
def recording() -> Iterator[None]:
    token = _recording.set(True)
    try:
        yield
    finally:
        _recording.reset(token)
