"""``fromage index add``: images into a collection."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fromage_server.commands.index.shared import (
    add_collection,
    add_model,
    check_bundle,
    checked_key,
    commit,
    progress_bar,
)
from fromage_server.demo_world import warning_for

if TYPE_CHECKING:
    from fromage_index.collection import Collection
    from fromage_index.editor import Change
    from fromage_index.record import Metadata
    from fromage_weights.image_embedder import ImageEmbedder

_BATCH = 32


def register(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = verbs.add_parser(
        "add",
        help="add images to a collection, which keeps them",
        description="What is there already, byte for byte, is left as it is. The exit status is 1 "
        "where a file could not be added; the others are.",
    )
    add_collection(parser)
    parser.add_argument(
        "files", metavar="FILE", type=Path, nargs="+", help="images, or folders of them"
    )
    parser.add_argument(
        "--metadata",
        metavar="JSON|FILE",
        help="an object for all images, or a .jsonl or .csv file with a line for each, which "
        "names it as file_name",
    )
    parser.add_argument(
        "--key", help="the name of one image (default: the file's, with its path in a folder)"
    )
    add_model(parser)
    parser.set_defaults(run=run)


@dataclass(frozen=True)
class _File:
    path: Path
    key: str


def run(args: argparse.Namespace) -> int:
    from fromage_index.collection import Collection
    from fromage_weights.loading import load_image_embedder

    collection = Collection.open(args.collection, device="cpu")
    metadata = _Metadata(args.metadata)
    files = list(_files(args.files, args.collection))
    if args.key is not None:
        key = checked_key(args.key, len(files))
        files = [_File(files[0].path, key)]
    bundle = check_bundle(args.collection, collection.provenance, args.bundle)
    warning = warning_for(args.bundle)
    if warning is not None:
        print(f"fromage: {warning}", file=sys.stderr)
    adding = _Adding(collection, load_image_embedder(bundle, device=args.device), metadata)
    with progress_bar("adding") as progress:
        for start in range(0, len(files), _BATCH):
            adding.take(files[start : start + _BATCH])
            progress(min(start + _BATCH, len(files)), len(files))
    print(
        f"{adding.added:,} added, {adding.there:,} there already; {adding.collection.size:,} images"
    )
    for name, problem in adding.failed:
        print(f"fromage: {name}: {problem}", file=sys.stderr)
    return 1 if adding.failed else 0


class _Adding:
    """Adds files batch by batch; each batch is durable when it is done."""

    def __init__(
        self, collection: Collection, embedder: ImageEmbedder, metadata: _Metadata
    ) -> None:
        self.collection = collection
        self.added = self.there = 0
        self.failed: list[tuple[Path, str]] = []
        self._embedder = embedder
        self._metadata = metadata

    def take(self, files: list[_File]) -> None:
        from fromage_index.editor import Addition, Done

        loaded = list(self._load(files))
        if not loaded:
            return
        vectors = self._embedder.embed([prepared for *_, prepared in loaded])
        changes: list[Change] = [
            Addition(data, vector, size, file.key, self._metadata.of(file))
            for (file, data, size, _), vector in zip(loaded, vectors, strict=True)
        ]
        self.collection, outcomes = commit(self.collection, changes)
        for (file, *_), outcome in zip(loaded, outcomes, strict=True):
            if not isinstance(outcome, Done):
                self.failed.append((file.path, str(outcome)))
            elif outcome.changed:
                self.added += 1
            else:
                self.there += 1

    def _load(self, files: list[_File]) -> Iterator[tuple[_File, bytes, tuple[int, int], Any]]:
        """What is readable and new: its bytes, its size and what the tower takes."""
        import hashlib

        from fromage_index.decode import decode_image
        from fromage_index.errors import UnreadableImage
        from fromage_index.files import read_image_file

        for file in files:
            try:
                data = read_image_file(file.path)
                if self.collection.with_content(hashlib.sha256(data).hexdigest()) is not None:
                    self.there += 1
                    continue
                picture = decode_image(data)
            except UnreadableImage as error:
                self.failed.append((file.path, str(error)))
                continue
            yield file, data, picture.size, self._embedder.prepare(picture)


class _Metadata:
    """What --metadata says of each file."""

    def __init__(self, given: str | None) -> None:
        from fromage_index.errors import BadMetadata
        from fromage_index.metadata import checked
        from fromage_index.plain_json import parse
        from fromage_index.sidecar import read_metadata_file

        self._all: Metadata = {}
        self._by_name: dict[str, Metadata] = {}
        if given is not None and given.lstrip().startswith("{"):
            try:
                self._all = checked(parse(given))
            except ValueError as error:
                raise BadMetadata(f"--metadata cannot be read as JSON: {error}") from error
        elif given is not None:
            self._by_name = read_metadata_file(Path(given))

    def of(self, file: _File) -> Metadata:
        names = (file.key, file.path.as_posix(), file.path.name)
        found = (self._by_name[name] for name in names if name in self._by_name)
        return {**self._all, **next(found, {})}


def _files(paths: Iterable[Path], collection: Path) -> Iterator[_File]:
    from fromage_index.folder import find_images, key_of

    for path in paths:
        if path.is_dir():
            for found in find_images(path, without=collection):
                yield _File(path / found.path, found.key)
        else:
            yield _File(path, key_of(path.name))
