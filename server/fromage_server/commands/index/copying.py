"""``fromage index copy``: images of one collection into another."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fromage_server.commands.index.shared import (
    checked_key,
    commit,
    named,
    parse_metadata,
    progress_bar,
    shown,
)
from fromage_server.errors import StartupError

if TYPE_CHECKING:
    from fromage_index.collection import Collection
    from fromage_index.editor import Addition
    from fromage_index.record import Metadata

_BATCH = 32


def register(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = verbs.add_parser(
        "copy",
        help="copy images of a collection into another one, which keeps them",
        description="Both were made for the same model; it isn't needed here. Where an image is "
        "unknown, none is copied. What is there already, byte for byte, is left as it is. The exit "
        "status is 1 where an image's file can't be had; the others are copied.",
    )
    parser.add_argument("source", metavar="FROM", type=Path, help="the collection they are in")
    parser.add_argument("collection", metavar="TO", type=Path, help="the collection they go to")
    parser.add_argument("images", metavar="ID_OR_KEY", nargs="+", help="as `list` prints them")
    parser.add_argument(
        "--metadata",
        metavar="JSON",
        type=parse_metadata,
        help="an object for all (default: theirs)",
    )
    parser.add_argument("--key", help="the name of one image (default: its own)")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from fromage_index.collection import Collection

    source = Collection.open(args.source, device="cpu")
    target = Collection.open(args.collection, device="cpu")
    _check_models(source, target)
    ids = named(source, args.images)
    key = None if args.key is None else checked_key(args.key, len(ids))
    copying = _Copying(source, target, key, args.metadata)
    with progress_bar("copying") as progress:
        for start in range(0, len(ids), _BATCH):
            copying.take(ids[start : start + _BATCH])
            progress(min(start + _BATCH, len(ids)), len(ids))
    print(
        f"{copying.added:,} added, {copying.there:,} there already; {copying.target.size:,} images"
    )
    for id, problem in copying.failed:
        print(f"fromage: {shown(id)}: {shown(problem)}", file=sys.stderr)
    return 1 if copying.failed else 0


def _check_models(source: Collection, target: Collection) -> None:
    """Raises StartupError where the one's embeddings say nothing in the other."""
    ours, theirs = source.provenance, target.provenance
    if (ours.bundle_hash, source.dim) != (theirs.bundle_hash, target.dim):
        raise StartupError(
            f"{source.directory} was made for bundle {ours.bundle} ({ours.bundle_hash[:12]}), "
            f"{target.directory} for {theirs.bundle} ({theirs.bundle_hash[:12]}): add the image "
            "files with `fromage index add`"
        )


class _Copying:
    """Copies images batch by batch; each batch is durable when it is done."""

    def __init__(
        self, source: Collection, target: Collection, key: str | None, metadata: Metadata | None
    ) -> None:
        self.target = target
        self.added = self.there = 0
        self.failed: list[tuple[str, str]] = []
        self._source = source
        self._key, self._metadata = key, metadata

    def take(self, ids: Sequence[str]) -> None:
        from fromage_index.editor import Done
        from fromage_index.errors import IndexFailure

        loaded: dict[str, Addition] = {}
        for id in ids:
            try:
                loaded[id] = self._addition(id)
            except IndexFailure as error:
                self.failed.append((id, str(error)))
        self.target, outcomes = commit(self.target, list(loaded.values()))
        for id, outcome in zip(loaded, outcomes, strict=True):
            if not isinstance(outcome, Done):
                self.failed.append((id, str(outcome)))
            elif outcome.changed:
                self.added += 1
            else:
                self.there += 1

    def _addition(self, id: str) -> Addition:
        """With the embedding that it has. Raises IndexFailure where its file can't be had."""
        import numpy as np

        from fromage_index.decode import decode_image
        from fromage_index.editor import Addition

        data, _ = self._source.open_bytes(id)
        record = self._source.image(id)
        row = self._source.store.row(id)
        return Addition(
            data,
            self._source.store.vectors(np.array([row]))[0],
            decode_image(data).size,
            self._key or record.key,
            self._metadata or {},
            told=record.metadata if self._metadata is None else {},
        )
