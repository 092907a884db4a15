"""Finds the images of a folder."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from fromage_index.files import inside
from fromage_index.sniff import IMAGE_SUFFIXES


@dataclass(frozen=True)
class Found:
    """A file with an image's suffix; `path` is relative to the folder, as the system spells it.

    `problem` says why it must not be opened.
    """

    path: str
    problem: str | None = None

    @property
    def key(self) -> str:
        return key_of(self.path)


def key_of(path: str) -> str:
    """The path as text that any reader can print."""
    return os.fsencode(path).decode("utf-8", "replace")


def find_images(folder: Path, *, without: Path) -> list[Found]:
    """Image files below `folder`, sorted by path.

    Hidden files and folders are passed over, and the folder `without`. Linked folders are not
    entered; a linked file counts where it lies within `folder`.
    """
    return sorted(_walk(folder, without.resolve()), key=lambda found: found.path)


def _walk(folder: Path, without: Path) -> Iterator[Found]:
    for parent, directories, files in os.walk(folder, followlinks=False):
        here = Path(parent)
        directories[:] = [
            name
            for name in directories
            if not name.startswith(".") and (here / name).resolve() != without
        ]
        for name in directories:
            if (here / name).is_symlink():
                yield Found(_relative(here / name, folder), "a linked folder is not entered")
        for name in files:
            if name.startswith(".") or Path(name).suffix.lower() not in IMAGE_SUFFIXES:
                continue
            path = _relative(here / name, folder)
            if (here / name).is_symlink() and inside(folder, path) is None:
                yield Found(path, "the link leads out of the folder")
            else:
                yield Found(path)


def _relative(path: Path, folder: Path) -> str:
    return path.relative_to(folder).as_posix()
