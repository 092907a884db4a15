"""Builds a collection: read, decode, embed in batches, store."""

from __future__ import annotations

import hashlib
import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sized
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fromage_index.decode import decode_image
from fromage_index.errors import DimensionMismatch, NothingToIndex, UnreadableImage
from fromage_index.files import read_image_file
from fromage_index.folder import Found, find_images
from fromage_index.manifest import Provenance
from fromage_index.record import Metadata
from fromage_index.sidecar import read_sidecar
from fromage_index.sniff import sniff_content_type
from fromage_index.writer import UNREADABLE_LOG, CollectionWriter

# From what `prepare` made of a batch of images to vectors (B, E); their length is set right later.
Embed = Callable[[list[Any]], NDArray[np.float32]]
# From an upright RGB image to what `embed` takes; runs on the decoding threads.
Prepare = Callable[[Image.Image], Any]
# Images done, and how many there are where that is known.
Progress = Callable[[int, int | None], None]

BATCH_SIZE = 32
_WORKERS = 2


@dataclass(frozen=True)
class BuildReport:
    """What a build did; `log` names every file that was skipped, and why."""

    images: int
    unreadable: int
    log: Path


@dataclass(frozen=True)
class Item:
    """An image to be stored in the collection: its bytes, or a file to copy."""

    key: str
    image: bytes | Path
    metadata: Metadata = field(default_factory=dict)


@dataclass(frozen=True)
class _Source:
    key: str
    image: bytes | Path
    metadata: Metadata
    path: str | None = None
    problem: str | None = None


@dataclass(frozen=True)
class _Loaded:
    """A source once read: what `embed` needs, or the reason why there is nothing."""

    source: _Source
    prepared: Any = None
    size: tuple[int, int] = (0, 0)
    content_type: str | None = None
    sha256: str | None = None
    data: bytes | None = None
    problem: str | None = None


def _as_is(image: Image.Image) -> Image.Image:
    return image


def build_from_folder(
    folder: Path,
    out: Path,
    embed: Embed,
    *,
    dim: int,
    provenance: Provenance,
    prepare: Prepare = _as_is,
    copy: bool = False,
    overwrite: bool = False,
    batch_size: int = BATCH_SIZE,
    progress: Progress | None = None,
) -> BuildReport:
    """A collection at `out` of the images below `folder`, in the order of their paths.

    Images stay where they are and are referenced, unless `copy` puts them into the collection.
    What cannot be read is skipped and logged. Raises NothingToIndex, CollectionExists,
    BadMetadata.
    """
    if not folder.is_dir():
        raise NothingToIndex(f"{folder} is not a folder")
    folder = folder.resolve()
    metadata = read_sidecar(folder)
    found = find_images(folder, without=out)
    sources = [_of_folder(folder, one, metadata) for one in found]
    writer = CollectionWriter(
        out,
        dim=dim,
        provenance=provenance,
        source=str(folder),
        root=None if copy else folder,
        overwrite=overwrite,
    )
    with writer:
        for name in sorted(metadata.keys() - {one.path for one in found}):
            writer.note(name, "there is metadata for it, but no such image")
        _fill(writer, sources, embed, prepare, copy, batch_size, progress)
        writer.commit()
    return BuildReport(writer.rows, writer.unreadable, out / UNREADABLE_LOG)


def build_from_items(
    items: Iterable[Item],
    out: Path,
    embed: Embed,
    *,
    dim: int,
    provenance: Provenance,
    source: str,
    prepare: Prepare = _as_is,
    overwrite: bool = False,
    batch_size: int = BATCH_SIZE,
    progress: Progress | None = None,
) -> BuildReport:
    """A collection at `out` that holds the items' images, in their order.

    `source` says in a few words where they come from. Raises NothingToIndex, CollectionExists.
    """
    sources = _Counted(items)
    with CollectionWriter(
        out, dim=dim, provenance=provenance, source=source, overwrite=overwrite
    ) as writer:
        _fill(writer, sources, embed, prepare, True, batch_size, progress)
        writer.commit()
    return BuildReport(writer.rows, writer.unreadable, out / UNREADABLE_LOG)


class _Counted:
    """Items as sources, with their number where it is known."""

    def __init__(self, items: Iterable[Item]) -> None:
        self._items = items

    def __iter__(self) -> Iterator[_Source]:
        return (_Source(item.key, item.image, item.metadata) for item in self._items)

    def total(self) -> int | None:
        return len(self._items) if isinstance(self._items, Sized) else None


def _of_folder(folder: Path, found: Found, metadata: dict[str, Metadata]) -> _Source:
    return _Source(
        key=found.key,
        image=folder / found.path,
        metadata=metadata.get(found.path, {}),
        path=found.path,
        problem=found.problem,
    )


def _fill(
    writer: CollectionWriter,
    sources: list[_Source] | _Counted,
    embed: Embed,
    prepare: Prepare,
    copy: bool,
    batch_size: int,
    progress: Progress | None,
) -> None:
    total = sources.total() if isinstance(sources, _Counted) else len(sources)
    done = 0

    def load(source: _Source) -> _Loaded:
        return _load(source, prepare, copy)

    with ThreadPoolExecutor(_WORKERS, thread_name_prefix="decode") as pool:
        loaded = _ahead(pool, load, iter(sources), depth=batch_size + 2 * _WORKERS)
        while batch := list(itertools.islice(loaded, batch_size)):
            _store(writer, batch, embed)
            done += len(batch)
            if progress is not None:
                progress(done, total)


def _load(source: _Source, prepare: Prepare, copy: bool) -> _Loaded:
    if source.problem is not None:
        return _Loaded(source, problem=source.problem)
    try:
        image = source.image
        data = image if isinstance(image, bytes) else read_image_file(image)
        picture = decode_image(data)
    except UnreadableImage as error:
        return _Loaded(source, problem=str(error))
    return _Loaded(
        source,
        prepared=prepare(picture),
        size=picture.size,
        content_type=sniff_content_type(data),
        sha256=hashlib.sha256(data).hexdigest(),
        data=data if copy else None,
    )


def _store(writer: CollectionWriter, batch: list[_Loaded], embed: Embed) -> None:
    good = [one for one in batch if one.problem is None]
    vectors = embed([one.prepared for one in good]) if good else np.empty((0, 0), np.float32)
    if len(vectors) != len(good):
        raise DimensionMismatch(f"{len(good)} images gave {len(vectors)} embeddings")
    rows = iter(vectors)
    for one in batch:
        if one.problem is not None:
            writer.skip(one.source.key, one.problem)
            continue
        writer.add(
            one.source.key,
            next(rows),
            data=one.data,
            path=None if one.data is not None else one.source.path,
            size=one.size,
            content_type=one.content_type,
            sha256=one.sha256,
            metadata=one.source.metadata,
        )


def _ahead(
    pool: ThreadPoolExecutor,
    load: Callable[[_Source], _Loaded],
    sources: Iterator[_Source],
    depth: int,
) -> Iterator[_Loaded]:
    """Loaded sources in their order, at most `depth` of them read in advance."""
    waiting: deque[Future[_Loaded]] = deque(
        pool.submit(load, source) for source in itertools.islice(sources, depth)
    )
    while waiting:
        yield waiting.popleft().result()
        for source in itertools.islice(sources, 1):
            waiting.append(pool.submit(load, source))
