"""What is computed again and again in the same shapes is compiled once.

oneDNN compiles a kernel for every shape it meets, which takes longer than the product: sizes that
differ from batch to batch are filled up to one of a few. torch.compile fuses what stands between
the products, half of a small model's step on a CPU.
"""

from __future__ import annotations

import logging
import os
import shutil
import sys
import sysconfig
import warnings
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import ParamSpec, TypeVar

import torch

_log = logging.getLogger(__name__)
P = ParamSpec("P")
T = TypeVar("T")


def rounded_up(count: int, step: int) -> int:
    """The next multiple of `step`."""
    return -(-count // step) * step


def compiled(function: Callable[P, T]) -> Callable[P, T]:
    """`function`, compiled once for every shape it meets; as it is where nothing can be compiled:
    that takes a C++ compiler and Python's headers."""
    if not _can_compile():
        _log.warning("no C++ compiler (g++) or no Python.h: training goes on, but slower")
        return function
    made: Callable[P, T] = torch.compile(function, dynamic=False)

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        with warnings.catch_warnings():
            # torch looks for a gradient in what is no leaf, and warns of it.
            warnings.filterwarnings("ignore", message=r"The \.grad attribute")
            return made(*args, **kwargs)

    return call


def _can_compile() -> bool:
    """Whether there is what torch.compile looks for."""
    compiler = os.environ.get("CXX", "clang++" if sys.platform == "darwin" else "g++")
    headers = Path(sysconfig.get_path("include"), "Python.h")
    return shutil.which(compiler) is not None and headers.exists()
