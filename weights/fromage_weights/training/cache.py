"""Vision features of a source, computed once and kept on disk.

The tower is frozen, so an image's feature never changes. A cache is a directory of shards, each the
readable pairs of a fixed range of positions; `cache_builder` makes them.

    cache.json             what it was made from; anything else is refused
    shard-00003.npy        (n, vision_dim)
    shard-00003.jsonl      one line per row: index, key, caption, and the SHA-256 of the image's
                           file; it says that the shard is whole
    shard-00003.broken     images left out, with the reason, where there are any
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fromage_weights.errors import TrainingDataInvalid

if TYPE_CHECKING:
    from torch import Tensor

INFO_NAME = "cache.json"
FORMAT = 2


@dataclass(frozen=True)
class CacheInfo:
    """What decides the features; ``tower``: VisionEncoder's ``form``."""

    source: str
    vision: str
    vision_dim: int
    pairs: int
    dtype: str
    shard_pairs: int
    tower: str
    format_version: int = FORMAT

    @property
    def shards(self) -> int:
        return -(-self.pairs // self.shard_pairs)


@dataclass(frozen=True)
class Broken:
    """An image that could not be read, and why."""

    index: int
    key: str
    reason: str


def shard_name(shard: int) -> str:
    return f"shard-{shard:05d}"


def read_info(file: Path) -> CacheInfo:
    try:
        told = json.loads(file.read_text())
        if told["format_version"] != FORMAT:
            raise TrainingDataInvalid(
                f"{file.parent}: features of format {told['format_version']}, this program makes "
                f"and reads {FORMAT}; remove it, and they are made again"
            )
        return CacheInfo(**told)
    except (ValueError, TypeError, KeyError) as error:
        raise TrainingDataInvalid(
            f"{file}: damaged ({error}); remove {file.parent}, and the features are made again"
        ) from error


def _read(file: Path) -> list[dict[str, Any]]:
    with file.open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


class FeatureCache:
    """A whole cache, read by row; features stay on disk until they are asked for.

    ``images`` (N,): which image a row shows; rows of one image have the same number, counted from 0
    in the order of the rows; one file under two names is one image. ``broken``: the images that
    were left out.
    """

    def __init__(self, directory: Path) -> None:
        file = directory / INFO_NAME
        if not file.exists():
            raise TrainingDataInvalid(f"{directory}: no features here ({INFO_NAME} is missing)")
        self.directory, self.info = directory, read_info(file)
        self.captions: list[str] = []
        self.indices: list[int] = []
        self.broken: list[Broken] = []
        self._parts: list[NDArray[Any]] = []
        numbers: dict[str, int] = {}
        images: list[int] = []
        for shard in range(self.info.shards):
            for image in self._open(directory / shard_name(shard)):
                images.append(numbers.setdefault(image, len(numbers)))
        self.images = np.array(images, dtype=np.int64)
        self._starts = np.cumsum([0, *(len(part) for part in self._parts)])

    def _open(self, stem: Path) -> list[str]:
        """The images of its rows."""
        if not stem.with_suffix(".jsonl").exists():
            raise TrainingDataInvalid(f"{stem}.jsonl is missing: the features are not complete")
        try:
            lines = _read(stem.with_suffix(".jsonl"))
            part = np.load(stem.with_suffix(".npy"), mmap_mode="r", allow_pickle=False)
            expected = (len(lines), self.info.vision_dim)
            if part.shape != expected:
                raise ValueError(f"shape {part.shape}, expected {expected}")
            left_out = stem.with_suffix(".broken")
            broken = [Broken(**line) for line in _read(left_out)] if left_out.exists() else []
        except (OSError, EOFError, ValueError, TypeError) as error:
            raise TrainingDataInvalid(
                f"{stem}.npy, .jsonl or .broken: damaged or missing ({error}); remove them, and "
                "the same command makes them again"
            ) from error
        self._parts.append(part)
        self.captions += [line["caption"] for line in lines]
        self.indices += [line["index"] for line in lines]
        self.broken += broken
        return [line["image"] for line in lines]

    def __len__(self) -> int:
        return len(self.captions)

    def features(self, rows: NDArray[np.int64]) -> Tensor:
        """(n,) rows -> (n, vision_dim) float32."""
        import torch

        # torch's own memory: how a kernel sums may depend on where its input begins, and numpy's
        # begins anywhere.
        found = torch.empty(len(rows), self.info.vision_dim)
        out = found.numpy()
        owners = np.searchsorted(self._starts, rows, side="right") - 1
        for owner in np.unique(owners):
            mine = owners == owner
            out[mine] = self._parts[owner][rows[mine] - self._starts[owner]]
        return found
