"""Vision features of a source, computed once and kept on disk.

The tower is frozen, so an image's feature never changes. A cache is a directory of shards, each the
readable pairs of a fixed range of positions; a shard appears whole or not at all, so a run that
broke off goes on with the first one missing, and several processes can each make their share.

    cache.json             what it was made from; anything else is refused
    shard-00003.npy        (n, vision_dim)
    shard-00003.jsonl      one line per row: index, key, caption
    shard-00003.broken     images left out, with the reason, where there are any
"""

from __future__ import annotations

import errno
import json
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import numpy as np
from numpy.typing import NDArray

from fromage_weights.errors import TrainingDataInvalid
from fromage_weights.images import open_for_crop
from fromage_weights.training.sources import CaptionSource

if TYPE_CHECKING:
    from torch import Tensor

    from fromage_weights.vision import VisionEncoder

# Of a large source; a smaller one is cut into smaller ones, so that each of several ranks has a
# share, but not so small that a rank loads its tower for next to nothing.
SHARD_PAIRS, _SMALL_SHARD, _SHARDS = 8192, 512, 64
DTYPES = {"float32": np.float32, "float16": np.float16}
_WHAT = {"source": "the hash of the pairs, and of where they are,", "vision": "the tower's hash"}
# Of the disk or the process, not of the image.
_OUTAGE = {errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ESTALE, errno.ENOTCONN}
Progress = Callable[[int, int], None]
"""Pairs done, and pairs in all."""


@dataclass(frozen=True)
class CacheInfo:
    """What decides the features."""

    source: str
    vision: str
    vision_dim: int
    pairs: int
    dtype: str
    shard_pairs: int = SHARD_PAIRS
    format_version: int = 1

    @property
    def shards(self) -> int:
        return -(-self.pairs // self.shard_pairs)


@dataclass(frozen=True)
class Broken:
    """An image that could not be read, and why."""

    index: int
    key: str
    reason: str


def build_cache(
    directory: Path,
    source: CaptionSource,
    encoder: VisionEncoder,
    *,
    dtype: str = "float16",
    batch: int = 64,
    workers: int = 4,
    rank: int = 0,
    ranks: int = 1,
    shard_pairs: int | None = None,
    progress: Progress | None = None,
) -> CacheInfo:
    """Make what is missing of the shards rank, rank + ranks, …; images are centre-cropped, as the
    reference does in training. Raises TrainingDataInvalid where the cache is another source's, or
    where the first images cannot be read, none of them."""
    directory.mkdir(parents=True, exist_ok=True)
    shard_pairs = shard_pairs or _shard_pairs(directory, len(source))
    info = CacheInfo(
        source.fingerprint, encoder.fingerprint, encoder.dim, len(source), dtype, shard_pairs
    )
    if not (directory / "cache.json").exists():
        _try_some(source)
    _claim(directory, info)
    say = progress or (lambda done, total: None)
    with ThreadPoolExecutor(workers) as pool:
        for shard in range(info.shards):
            span = range(shard * shard_pairs, min((shard + 1) * shard_pairs, len(source)))
            if shard % ranks == rank and not (directory / f"{_name(shard)}.jsonl").exists():
                batches = _ahead(pool, partial(_pixels, source, encoder), span, batch)
                _build_shard(
                    directory / _name(shard), source, encoder, batches, info.dtype,
                    lambda done: say(done, len(source)),
                )  # fmt: skip
            say(span.stop, len(source))
    return info


def _shard_pairs(directory: Path, pairs: int) -> int:
    """Of the features that are there; of new ones so that there are several shards."""
    if (file := directory / "cache.json").exists():
        return _info(file).shard_pairs
    return min(SHARD_PAIRS, max(_SMALL_SHARD, -(-pairs // _SHARDS)))


def _try_some(source: CaptionSource) -> None:
    """A wrong folder of images would else make a whole cache of nothing."""
    tried = range(min(len(source), 32))
    reason = ""
    for index in tried:
        try:
            open_for_crop(source.image(index))
            return
        except (OSError, ValueError) as error:
            reason = reason or f"{source.key(index)}: {error}"
    raise TrainingDataInvalid(
        f"none of the first {len(tried)} images can be read ({reason}); is it the right folder?"
    )


def wait_for_features(directory: Path, info: CacheInfo) -> None:
    """Until every rank has made its share. On the files, not on a collective: those give up after
    some minutes, and a tower may need hours."""
    for shard in range(info.shards):
        while not (directory / f"{_name(shard)}.jsonl").exists():
            time.sleep(0.2)


def _name(shard: int) -> str:
    return f"shard-{shard:05d}"


def _claim(directory: Path, info: CacheInfo) -> None:
    file = directory / "cache.json"
    if not file.exists():
        _write(file, json.dumps(asdict(info), indent=1).encode())
        return
    found = asdict(_info(file))
    wanted = asdict(info)
    different = [name for name in wanted if found[name] != wanted[name]]
    if different:
        told = "; ".join(f"{_WHAT.get(n, n)} is {found[n]}, now {wanted[n]}" for n in different)
        raise TrainingDataInvalid(
            f"{directory}: the features there were made from something else ({told}); "
            "remove it or name another --cache"
        )


def _info(file: Path) -> CacheInfo:
    try:
        return CacheInfo(**json.loads(file.read_text()))
    except (ValueError, TypeError) as error:
        raise TrainingDataInvalid(
            f"{file}: damaged ({error}); remove {file.parent}, and the features are made again"
        ) from error


def _pixels(source: CaptionSource, encoder: VisionEncoder, index: int) -> Tensor | Broken:
    if not source.caption(index).strip():
        return Broken(index, source.key(index), "its caption is empty")
    try:
        return encoder.preprocess(open_for_crop(source.image(index)), "crop")
    except (OSError, ValueError) as error:
        if isinstance(error, OSError) and error.errno in _OUTAGE:
            # Kept as broken it would be missing for ever.
            raise TrainingDataInvalid(
                f"{source.key(index)}: {error}; the same command goes on once this is mended"
            ) from error
        return Broken(index, source.key(index), str(error))


def _build_shard(
    stem: Path,
    source: CaptionSource,
    encoder: VisionEncoder,
    batches: Iterator[tuple[list[int], list[Tensor | Broken]]],
    dtype: str,
    done: Callable[[int], None],
) -> None:
    """``done`` is told the position after each batch."""
    import torch

    rows: list[NDArray[Any]] = [np.empty((0, encoder.dim), DTYPES[dtype])]
    told: list[dict[str, Any]] = []
    broken: list[Broken] = []
    for indices, found in batches:
        pixels = []
        for index, item in zip(indices, found, strict=True):
            if isinstance(item, Broken):
                broken.append(item)
                continue
            pixels.append(item)
            told.append(
                {"index": index, "key": source.key(index), "caption": source.caption(index)}
            )
        if pixels:
            rows.append(encoder.encode(torch.stack(pixels)).numpy().astype(DTYPES[dtype]))
        done(indices[-1] + 1)
    stem.with_suffix(".broken").unlink(missing_ok=True)
    if broken:
        _write(stem.with_suffix(".broken"), _lines([asdict(one) for one in broken]))
    with (unfinished := stem.with_suffix(".npy.partial")).open("wb") as file:
        np.save(file, np.concatenate(rows))
        file.flush()
        os.fsync(file.fileno())
    unfinished.replace(stem.with_suffix(".npy"))
    # Last: it says that the shard is whole.
    _write(stem.with_suffix(".jsonl"), _lines(told))


def _lines(rows: list[dict[str, Any]]) -> bytes:
    # A name whose bytes are no UTF-8 has halves of characters in it, which JSON can spell.
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    return text.encode("utf-8", "backslashreplace")


def _ahead(
    pool: ThreadPoolExecutor, read: Callable[[int], Tensor | Broken], span: range, batch: int
) -> Iterator[tuple[list[int], list[Tensor | Broken]]]:
    """Batches in order, decoded while the one before is encoded."""
    indices = iter(span)

    def begin() -> tuple[list[int], list[Future[Tensor | Broken]]]:
        chosen = list(islice(indices, batch))
        return chosen, [pool.submit(read, index) for index in chosen]

    waiting = begin()
    while waiting[0]:
        following = begin()
        yield waiting[0], [future.result() for future in waiting[1]]
        waiting = following


def _write(file: Path, data: bytes) -> None:
    # A name of its own: every rank claims the directory, at the same moment.
    unfinished = file.with_name(f"{file.name}.{uuid4().hex}.partial")
    with unfinished.open("wb") as out:
        out.write(data)
        out.flush()
        os.fsync(out.fileno())
    unfinished.replace(file)


def _read(file: Path) -> list[dict[str, Any]]:
    with file.open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


class FeatureCache:
    """A whole cache, read by row; features stay on disk until they are asked for.

    ``images`` (N,): which image a row shows; rows of one image have the same number, counted from 0
    in the order of the rows. ``broken``: the images that were left out.
    """

    def __init__(self, directory: Path) -> None:
        file = directory / "cache.json"
        if not file.exists():
            raise TrainingDataInvalid(f"{directory}: no features here (cache.json is missing)")
        self.directory, self.info = directory, _info(file)
        self.captions: list[str] = []
        self.indices: list[int] = []
        self.broken: list[Broken] = []
        self._parts: list[NDArray[Any]] = []
        numbers: dict[str, int] = {}
        images: list[int] = []
        for shard in range(self.info.shards):
            for key in self._open(directory / _name(shard)):
                images.append(numbers.setdefault(key, len(numbers)))
        self.images = np.array(images, dtype=np.int64)
        self._starts = np.cumsum([0, *(len(part) for part in self._parts)])

    def _open(self, stem: Path) -> list[str]:
        """The keys of its rows."""
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
        return [line["key"] for line in lines]

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
