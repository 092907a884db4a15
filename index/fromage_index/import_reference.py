"""Imports the embeddings that the FROMAGe reference code precomputed (`cc3m_embeddings*.pkl`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fromage_index.build import Progress
from fromage_index.errors import BadPickle, BadVectors, DimensionMismatch, NothingToIndex
from fromage_index.files import inside
from fromage_index.manifest import Provenance
from fromage_index.plain_pickle import load_plain_pickle
from fromage_index.writer import CollectionWriter

PATTERN = "cc3m_embeddings*.pkl"
_PROGRESS_EVERY = 1000


@dataclass(frozen=True)
class ImportReport:
    """What an import found: rows with a file, with a URL only, and with neither."""

    rows: int
    files: int
    urls: int
    missing: int


def import_reference(
    paths: Sequence[Path],
    out: Path,
    *,
    dim: int,
    provenance: Provenance,
    images_root: Path | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> ImportReport:
    """A collection at `out` of all rows of the files, in the order of the files' names.

    `paths` are pickle files, or directories that hold them. Rows keep their order (Hit.row is
    the reference's index) and their path as key; embeddings are normalised. A path that is no
    URL is a file below `images_root`; a row whose file won't open is kept, because the
    reference ranks it too. Raises BadPickle, BadVectors, DimensionMismatch, NothingToIndex.
    """
    files = reference_files(paths)
    parts = [_read(file, dim) for file in files]
    total = sum(len(keys) for keys, _ in parts)
    root = images_root.resolve() if images_root is not None else None
    counts = {"file": 0, "url": 0, "missing": 0}
    writer = CollectionWriter(
        out,
        dim=dim,
        provenance=provenance,
        source=", ".join(str(file) for file in files),
        root=root,
        overwrite=overwrite,
    )
    with writer:
        for keys, embeddings in parts:
            for key, embedding in zip(keys, embeddings, strict=True):
                counts[_add(writer, key, embedding, root)] += 1
                if progress is not None and writer.rows % _PROGRESS_EVERY == 0:
                    progress(writer.rows, total)
        writer.commit()
    if progress is not None:
        progress(total, total)
    return ImportReport(total, counts["file"], counts["url"], counts["missing"])


def reference_files(paths: Sequence[Path]) -> list[Path]:
    """The pickle files that `paths` name, sorted by file name; raises NothingToIndex."""
    files: list[Path] = []
    for path in paths:
        found = sorted(path.glob(PATTERN)) if path.is_dir() else [path]
        if not found or not all(file.is_file() for file in found):
            raise NothingToIndex(f"{path} is neither a file nor a directory with {PATTERN}")
        files.extend(found)
    return sorted(set(files), key=lambda file: (file.name, file))


def _read(file: Path, dim: int) -> tuple[list[str], NDArray[np.floating[Any]]]:
    """(n) paths and (n, E) embeddings, which are not normalised yet."""
    content = load_plain_pickle(file)
    if not {"paths", "embeddings"} <= content.keys():
        raise BadPickle(f"{file} holds {sorted(map(str, content))}, not paths and embeddings")
    keys = _keys(file, content["paths"])
    embeddings = _matrix(file, content["embeddings"])
    if embeddings.ndim != 2 or len(embeddings) != len(keys):
        raise BadVectors(
            f"{file} has {len(keys)} paths, and embeddings of shape {embeddings.shape}"
        )
    if embeddings.shape[1] != dim:
        raise DimensionMismatch(
            f"{file} has embeddings of length {embeddings.shape[1]}; "
            f"the bundle's shared_dim is {dim}"
        )
    return keys, embeddings


def _keys(file: Path, paths: Any) -> list[str]:
    listed = paths.tolist() if isinstance(paths, np.ndarray) else paths
    if not isinstance(listed, list) or not all(isinstance(key, str) for key in listed):
        raise BadPickle(f"{file}: paths is not a list of strings")
    return listed


def _matrix(file: Path, embeddings: Any) -> NDArray[np.floating[Any]]:
    """An array, or a list of rows or of batches as the reference's own script may leave it."""
    if isinstance(embeddings, list) and embeddings:
        if not all(isinstance(part, np.ndarray) for part in embeddings):
            raise BadPickle(f"{file}: embeddings is a list of something else than arrays")
        embeddings = np.concatenate([np.atleast_2d(part) for part in embeddings])
    if not isinstance(embeddings, np.ndarray) or embeddings.dtype.kind != "f":
        raise BadPickle(f"{file}: embeddings is not an array of floating point numbers")
    return embeddings


def _add(
    writer: CollectionWriter, key: str, embedding: NDArray[np.floating[Any]], root: Path | None
) -> str:
    name = key.encode(errors="replace").decode()  # a path may hold what no text does
    if name.startswith(("http://", "https://")):
        writer.add(name, embedding, url=name)
        return "url"
    path = inside(root, key) if root is not None else None
    if root is None or path is None:
        writer.add(name, embedding)
        return "missing"
    writer.add(name, embedding, path=path.relative_to(root).as_posix())
    return "file" if path.is_file() else "missing"
