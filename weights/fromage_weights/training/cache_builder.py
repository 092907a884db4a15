"""Making a feature cache: every image through the tower, once.

A shard appears whole or not at all, so a run that broke off goes on with the first one missing, and
several processes can each make their share.
"""

from __future__ import annotations

import errno
import hashlib
import io
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
from fromage_weights.training.cache import INFO_NAME, Broken, CacheInfo, read_info, shard_name
from fromage_weights.training.sources import CaptionSource

if TYPE_CHECKING:
    from torch import Tensor

    from fromage_weights.vision import VisionEncoder

# Of a large source; a smaller one is cut into smaller ones, so that each of several ranks has a
# share, but not so small that a rank loads its tower for next to nothing.
SHARD_PAIRS, _SMALL_SHARD, _SHARDS = 8192, 512, 64
DTYPES = {"float32": np.float32, "float16": np.float16}
_WHAT = {
    "source": "the hash of the pairs, and of where they are,",
    "vision": "the tower's hash",
    "tower": "the hash of the tower's form (activations, preprocessing)",
}
_TRIED = 32
# Of the disk or the process, not of the image.
_OUTAGE = {errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ESTALE, errno.ENOTCONN}
Progress = Callable[[int, int], None]
"""Pairs done, and pairs in all."""


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
    where none of some images can be read."""
    directory.mkdir(parents=True, exist_ok=True)
    shard_pairs = shard_pairs or _shard_pairs(directory, len(source))
    info = CacheInfo(
        source.fingerprint,
        encoder.fingerprint,
        encoder.dim,
        len(source),
        dtype,
        shard_pairs,
        encoder.form,
    )
    if not (directory / INFO_NAME).exists():
        _try_some(source)
    _claim(directory, info)
    say = progress or (lambda done, total: None)
    with ThreadPoolExecutor(workers) as pool:
        for shard in range(info.shards):
            span = range(shard * shard_pairs, min((shard + 1) * shard_pairs, len(source)))
            if shard % ranks == rank and not (directory / f"{shard_name(shard)}.jsonl").exists():
                batches = _ahead(pool, partial(_read, source, encoder), span, batch)
                _build_shard(
                    directory / shard_name(shard),
                    encoder,
                    batches,
                    info.dtype,
                    lambda done: say(done, len(source)),
                )
            say(span.stop, len(source))
    return info


def _shard_pairs(directory: Path, pairs: int) -> int:
    """Of the features that are there; of new ones so that there are several shards."""
    if (file := directory / INFO_NAME).exists():
        return read_info(file).shard_pairs
    return min(SHARD_PAIRS, max(_SMALL_SHARD, -(-pairs // _SHARDS)))


def _try_some(source: CaptionSource) -> None:
    """A wrong folder of images would else make a whole cache of nothing."""
    tried = range(0, len(source), max(1, len(source) // _TRIED))[:_TRIED]
    reason = ""
    for index in tried:
        try:
            open_for_crop(source.image(index))
            return
        except (OSError, ValueError) as error:
            reason = reason or f"{source.key(index)}: {error}"
    raise TrainingDataInvalid(
        f"none of {len(tried)} images, taken from all of them, can be read ({reason}); is it the "
        "right folder?"
    )


def wait_for_features(directory: Path, info: CacheInfo) -> None:
    """Until every rank has made its share. On the files, not on a collective: those give up after
    some minutes, and a tower may need hours."""
    for shard in range(info.shards):
        while not (directory / f"{shard_name(shard)}.jsonl").exists():
            time.sleep(0.2)


def _claim(directory: Path, info: CacheInfo) -> None:
    file = directory / INFO_NAME
    if not file.exists():
        _write(file, json.dumps(asdict(info), indent=1).encode())
        return
    found = asdict(read_info(file))
    wanted = asdict(info)
    different = [name for name in wanted if found[name] != wanted[name]]
    if different:
        told = "; ".join(f"{_WHAT.get(n, n)} is {found[n]}, now {wanted[n]}" for n in different)
        raise TrainingDataInvalid(
            f"{directory}: the features there were made from something else ({told}); "
            "remove it or name another --cache"
        )


@dataclass(frozen=True)
class _Pair:
    """Of a shard: (3, S, S), and what is written of it."""

    pixels: Tensor
    told: dict[str, Any]


def _read(source: CaptionSource, encoder: VisionEncoder, index: int) -> _Pair | Broken:
    # One line, as a reply is: what stands around it would be learnt, too.
    caption = " ".join(source.caption(index).split())
    key = source.key(index)
    if not caption:
        return Broken(index, key, "its caption is empty")
    try:
        data = source.image(index)
        pixels = encoder.preprocess(open_for_crop(data), "crop")
    except (OSError, ValueError, MemoryError) as error:
        if isinstance(error, MemoryError) or getattr(error, "errno", None) in _OUTAGE:
            # Kept as broken it would be missing for ever.
            raise TrainingDataInvalid(
                f"{key}: {error}; the same command goes on once this is mended"
            ) from error
        return Broken(index, key, str(error))
    image = hashlib.sha256(data).hexdigest()
    return _Pair(pixels, {"index": index, "key": key, "caption": caption, "image": image})


def _build_shard(
    stem: Path,
    encoder: VisionEncoder,
    batches: Iterator[tuple[list[int], list[_Pair | Broken]]],
    dtype: str,
    done: Callable[[int], None],
) -> None:
    """``done`` is told the position after each batch."""
    import torch

    rows: list[NDArray[Any]] = [np.empty((0, encoder.dim), DTYPES[dtype])]
    told: list[dict[str, Any]] = []
    broken: list[Broken] = []
    for indices, found in batches:
        broken += [item for item in found if isinstance(item, Broken)]
        pairs = [item for item in found if isinstance(item, _Pair)]
        told += [pair.told for pair in pairs]
        if pairs:
            pixels = torch.stack([pair.pixels for pair in pairs])
            rows.append(encoder.encode(pixels).numpy().astype(DTYPES[dtype]))
        done(indices[-1] + 1)
    stem.with_suffix(".broken").unlink(missing_ok=True)
    if broken:
        _write(stem.with_suffix(".broken"), _lines([asdict(one) for one in broken]))
    features = io.BytesIO()
    np.save(features, np.concatenate(rows))
    _write(stem.with_suffix(".npy"), features.getbuffer())
    # Last: it says that the shard is whole.
    _write(stem.with_suffix(".jsonl"), _lines(told))


def _lines(rows: list[dict[str, Any]]) -> bytes:
    # A name whose bytes are no UTF-8 has halves of characters in it, which JSON can spell.
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    return text.encode("utf-8", "backslashreplace")


def _ahead(
    pool: ThreadPoolExecutor, read: Callable[[int], _Pair | Broken], span: range, batch: int
) -> Iterator[tuple[list[int], list[_Pair | Broken]]]:
    """Batches in order, decoded while the one before is encoded."""
    indices = iter(span)

    def begin() -> tuple[list[int], list[Future[_Pair | Broken]]]:
        chosen = list(islice(indices, batch))
        return chosen, [pool.submit(read, index) for index in chosen]

    waiting = begin()
    while waiting[0]:
        following = begin()
        yield waiting[0], [future.result() for future in waiting[1]]
        waiting = following


def _write(file: Path, data: bytes | memoryview) -> None:
    # A name of its own: every rank claims the directory, at the same moment, and several runs may
    # make the same features.
    unfinished = file.with_name(f"{file.name}.{uuid4().hex}.partial")
    with unfinished.open("wb") as out:
        out.write(data)
        out.flush()
        os.fsync(out.fileno())
    unfinished.replace(file)
