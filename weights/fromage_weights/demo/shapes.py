"""What is computed again and again in the same shapes is compiled once.

oneDNN compiles a kernel for every shape it meets, which takes longer than the product: sizes that
differ from batch to batch are filled up to one of a few. torch.compile fuses what stands between
the products, half of a small model's step on a CPU.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import torch

_log = logging.getLogger(__name__)
P = ParamSpec("P")
T = TypeVar("T")


def rounded_up(count: int, step: int) -> int:
    """The next multiple of `step`."""
    return -(-count // step) * step


def compiled(function: Callable[P, T]) -> Callable[P, T]:
    """`function`, compiled once for every shape it meets; as it is where there is no C++
    compiler."""
    if not (shutil.which("g++") or shutil.which("clang++")):
        _log.warning("no C++ compiler (g++): training goes on without one, a third slower")
        return function
    made: Callable[P, T] = torch.compile(function, dynamic=False)
    return made
