"""One writer at a time: whoever builds or changes a collection holds its lock file.

The lock ends with the process that holds it, however that ends.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fromage_index.errors import CollectionBusy, CollectionNotFound, PlaceUnusable

LOCK = ".lock"
# A change takes milliseconds; a build may take hours, and nobody waits for that.
_PATIENCE_S = 10.0
_EVERY_S = 0.01


def take_lock(directory: Path, patience_s: float = 0.0) -> int:
    """A descriptor that holds the directory's lock until it is closed.

    Raises CollectionBusy where another holds it still after `patience_s`, CollectionNotFound where
    the directory isn't there (any more), PlaceUnusable where the lock file cannot be made.
    """
    end = time.monotonic() + patience_s
    while True:
        descriptor = _try(directory)
        if descriptor is not None:
            return descriptor
        if time.monotonic() >= end:
            raise CollectionBusy(f"another build or change is writing {directory}; try again later")
        time.sleep(_EVERY_S)


@contextmanager
def writing(directory: Path) -> Iterator[None]:
    """Alone in changing the collection; raises as `take_lock` does."""
    descriptor = take_lock(directory, _PATIENCE_S)
    try:
        yield
    finally:
        os.close(descriptor)


def _try(directory: Path) -> int | None:
    try:
        descriptor = os.open(directory / LOCK, os.O_CREAT | os.O_RDWR, 0o644)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise CollectionNotFound(f"{directory} is gone: there is no such directory") from error
    except OSError as error:
        raise PlaceUnusable(f"{directory} cannot be written ({error.strerror})") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if _is_current(directory, descriptor):
            return descriptor
    except BlockingIOError:
        pass
    os.close(descriptor)
    return None


def _is_current(directory: Path, descriptor: int) -> bool:
    """Whether the directory wasn't moved away or made again while the lock was awaited."""
    try:
        return os.path.samestat(os.stat(directory / LOCK), os.fstat(descriptor))
    except OSError:
        return False
