"""Files that are there whole or not at all, whatever breaks off: the process, or the power."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A name beside `path` to write to, a file or a directory; what was written becomes `path`."""
    unfinished = path.with_name(path.name + ".partial")
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove(unfinished)  # of a run that broke off
    yield unfinished
    # Before the name: after a power failure a file system may know the new name and not its bytes.
    for file in [*unfinished.rglob("*")] if unfinished.is_dir() else [unfinished]:
        _sync(file)
    if unfinished.is_dir():
        _remove(path)  # a directory replaces none but an empty one
    unfinished.replace(path)
    _sync(path.parent)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
