"""Reads image files that may be anything: pipes, devices, links out of their folder, huge."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import BinaryIO

from fromage_index.errors import UnreadableImage

MAX_FILE_BYTES = 256 * 1024 * 1024


def open_image_file(path: Path) -> BinaryIO:
    """A regular file of bounded size, opened; raises UnreadableImage."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise UnreadableImage(f"the file cannot be opened ({reason})") from error
    status = os.fstat(descriptor)
    problem = None
    if not stat.S_ISREG(status.st_mode):
        problem = "it is not a regular file"
    elif status.st_size > MAX_FILE_BYTES:
        problem = f"the file has {status.st_size:,} bytes, more than {MAX_FILE_BYTES:,}"
    if problem is not None:
        os.close(descriptor)
        raise UnreadableImage(problem)
    return os.fdopen(descriptor, "rb")


def read_image_file(path: Path) -> bytes:
    """All bytes of a file that could be an image; raises UnreadableImage."""
    with open_image_file(path) as file:
        return file.read()


def inside(root: Path, path: str) -> Path | None:
    """`path` below `root` with every link resolved, or None where it leads out of it."""
    try:
        resolved = (root / path).resolve()
    except (OSError, ValueError, RuntimeError):
        return None
    return resolved if resolved.is_relative_to(root.resolve()) else None
