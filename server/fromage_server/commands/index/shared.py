"""What the verbs have in common."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fromage_server.errors import SettingsError, StartupError

if TYPE_CHECKING:
    from fromage_index.build import Progress
    from fromage_index.collection import Collection
    from fromage_index.editor import Change, Outcome
    from fromage_index.manifest import Provenance
    from fromage_index.record import Metadata
    from fromage_weights.bundle import Bundle

DEVICES = ("auto", "cpu", "cuda")


def add_collection(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("collection", metavar="DIR", type=Path, help="the collection")


def add_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--bundle",
        metavar="demo|PATH|HUB_ID",
        default="demo",
        help="the model that the collection was made for (default: demo)",
    )
    parser.add_argument("--device", choices=DEVICES, default="auto", help="default: auto")


def open_bundle(name: str) -> tuple[Bundle, Provenance]:
    from fromage_index.manifest import Provenance
    from fromage_weights.bundle import Bundle
    from fromage_weights.loading import bundle_directory

    bundle = Bundle.load(bundle_directory(name))
    return bundle, Provenance(bundle=bundle.config.name, bundle_hash=bundle.hash)


def check_bundle(directory: Path, made_for: Provenance, name: str) -> Bundle:
    """Raises StartupError where the collection was made for another one."""
    bundle, provenance = open_bundle(name)
    if made_for.bundle_hash != provenance.bundle_hash:
        raise StartupError(
            f"{directory} was made for bundle {made_for.bundle} "
            f"({made_for.bundle_hash[:12]}); --bundle {name} is {provenance.bundle} "
            f"({provenance.bundle_hash[:12]})"
        )
    return bundle


def parse_object(text: str) -> Metadata:
    """A `type` for argparse."""
    from fromage_index.plain_json import parse

    try:
        value = parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text[:80]!r} cannot be read as JSON: {error}") from None
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError(f"{text[:80]!r}: a JSON object was expected")
    return value


def parse_metadata(text: str) -> Metadata:
    """A `type` for argparse."""
    from fromage_index.errors import BadMetadata
    from fromage_index.metadata import checked

    try:
        return checked(parse_object(text))
    except BadMetadata as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def named(collection: Collection, names: Sequence[str]) -> list[str]:
    """Their ids, each once. Raises ImageNotFound, AmbiguousKey."""
    from fromage_index.errors import AmbiguousKey, ImageNotFound

    store = collection.store
    by_key: dict[str, list[str]] = {}
    if any(name not in collection for name in names):
        for row in store.live_rows.tolist():
            by_key.setdefault(store.record(row).key, []).append(store.id(row))
    ids: dict[str, None] = {}
    for name in names:
        found = [name] if name in collection else by_key.get(name, [])
        if not found:
            raise ImageNotFound(f"{collection.directory} has no image {name!r}; nothing is changed")
        if len(found) > 1:
            raise AmbiguousKey(
                f"{len(found)} images of {collection.directory} have the key {name!r}; say which "
                f"by its id: {', '.join(found[:8])}"
            )
        ids[found[0]] = None
    return list(ids)


def checked_key(key: str, images: int) -> str:
    """What --key says of that many images. Raises SettingsError, BadKey."""
    from fromage_index import record
    from fromage_server.schema.collections import MAX_KEY

    if images != 1:
        raise SettingsError(f"--key names one image; there are {images:,}")
    if not 1 <= len(key) <= MAX_KEY:
        raise SettingsError(f"--key has {len(key):,} characters; from 1 to {MAX_KEY} are taken")
    return record.checked_key(key)


def shown(text: str) -> str:
    """On one line, and without anything that a terminal obeys: others may have named it."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


def as_json(value: Any) -> str:
    """On one line, and with what a terminal obeys escaped."""
    text = json.dumps(value, ensure_ascii=False)
    return "".join(c if c.isprintable() else json.dumps(c)[1:-1] for c in text)


def commit(collection: Collection, changes: Sequence[Change]) -> tuple[Collection, list[Outcome]]:
    """`edit`, and what merging is due then."""
    from fromage_index.compact import compact, due
    from fromage_index.editor import edit

    collection, outcomes = edit(collection, changes)
    while (run := due(collection.store)) is not None and compact(collection, run):
        collection = collection.refreshed()
    return collection, outcomes


@contextmanager
def progress_bar(what: str) -> Iterator[Progress]:
    from tqdm import tqdm

    with tqdm(desc=what, unit=" images", dynamic_ncols=True) as bar:

        def progress(done: int, total: int | None) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield progress
