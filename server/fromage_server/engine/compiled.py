"""Builds the C++ files beside it into libraries, where there is a compiler, and keeps them."""

from __future__ import annotations

import ctypes
import hashlib
import logging
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Final

import torch

log = logging.getLogger(__name__)
_HERE: Final = Path(__file__).parent
BESIDE: Final = _HERE / "built"  # for a server that will have no compiler
# What -ffast-math does for loops, but not for NaN and infinity, nor for the rest of the process.
_FLAGS: Final = (
    "-std=c++17", "-O3", "-shared", "-fPIC", "-fopenmp",
    "-fno-math-errno", "-fno-trapping-math", "-fno-signed-zeros", "-fassociative-math",
    "-falign-loops=64",  # else chance decides: a twentieth more or less of products' speed
)  # fmt: skip
_PATIENCE: Final = 120.0


def library(name: str) -> ctypes.CDLL:
    """Of ``name``.cpp, built now if it never was. Raises OSError or SubprocessError."""
    places = (BESIDE, _kept())
    made = next((at for place in places if (at := place / _file(name)).exists()), None)
    return ctypes.CDLL(str(made or build(name, _kept())))


def function_of(name: str, symbol: str, otherwise: str) -> Any:
    """Of that library; None, and ``otherwise`` in the log, where it cannot be built."""
    try:
        return getattr(library(name), symbol)
    except (OSError, RuntimeError, subprocess.SubprocessError) as error:  # no home directory, too
        log.info("%s: %s %s", otherwise, error, getattr(error, "stderr", None) or "")
        return None


def compiler() -> str | None:
    """The command; None where there is none, or none whose libraries would be taken."""
    if sys.platform != "linux":
        return None
    return os.environ.get("CXX") or shutil.which("g++") or shutil.which("c++")


def build_all(into: Path = BESIDE) -> list[Path]:
    """Every C++ file; for an image whose servers have no compiler."""
    return [build(source.stem, into) for source in sorted(_HERE.glob("*.cpp"))]


def build(name: str, into: Path) -> Path:
    """Compile into the folder. Raises OSError or SubprocessError."""
    command = compiler()
    if command is None:
        raise OSError("there is no C++ compiler here")
    into.mkdir(parents=True, exist_ok=True)
    made = into / _file(name)
    # torch's own OpenMP: a second one would have threads of its own.
    bundled = sorted(map(str, (Path(torch.__file__).parent / "lib").glob("libgomp*.so*")))
    with tempfile.TemporaryDirectory(dir=into) as folder:
        partial = Path(folder) / made.name
        arguments = [*_FLAGS, str(_source(name)), "-o", str(partial), *bundled[:1]]
        subprocess.run(  # noqa: S603
            [*shlex.split(command), *arguments],
            check=True,
            capture_output=True,
            text=True,
            timeout=_PATIENCE,
        )
        partial.replace(made)  # at once: others may be building it, too
    return made


def _source(name: str) -> Path:
    return _HERE / f"{name}.cpp"


def _kept() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fromage" / "kernels"


def _file(name: str) -> str:
    sources = (_source(name), *sorted(_HERE.glob("*.h")))
    told = " ".join((torch.__version__, *_FLAGS)).encode()
    told += b"".join(source.read_bytes() for source in sources)
    return f"{name}-{hashlib.sha256(told).hexdigest()[:16]}.so"
