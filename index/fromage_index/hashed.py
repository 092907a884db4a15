"""Files of a collection on their way to the disk."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import BinaryIO

from fromage_index.manifest import FileEntry


class HashedFile:
    """A file being written, its SHA-256 kept along."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: BinaryIO = path.open("xb")
        self._digest = hashlib.sha256()
        self._bytes = 0

    def write(self, data: bytes) -> int:
        """Appends and returns where the data begins."""
        offset = self._bytes
        self._file.write(data)
        self._digest.update(data)
        self._bytes += len(data)
        return offset

    def finish(self) -> FileEntry:
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        return FileEntry(name=self._path.name, bytes=self._bytes, sha256=self._digest.hexdigest())

    def close(self) -> None:
        self._file.close()
