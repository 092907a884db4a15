"""``fromage index create``, ``drop`` and ``collections``: whole collections."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fromage_index.names import RULE
from fromage_server.commands.index.shared import add_collection, as_json, open_bundle, shown
from fromage_server.demo_world import warning_for
from fromage_server.errors import SettingsError

if TYPE_CHECKING:
    from fromage_index.manifest import Manifest


def register(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    create = verbs.add_parser(
        "create",
        help="make an empty collection",
        description="A server whose --collections-dir it is made in serves it from its next start. "
        f"The directory's name is the collection's: {RULE}.",
    )
    add_collection(create)
    create.add_argument(
        "--bundle", metavar="demo|PATH|HUB_ID", required=True, help="the model to search it with"
    )
    create.set_defaults(run=run_create)
    drop = verbs.add_parser(
        "drop",
        help="delete a collection with all its files",
        description="Pictures that it only refers to stay where they are. On a terminal you are "
        "asked first. A server that has it open does not show it any more.",
    )
    add_collection(drop)
    drop.add_argument("--yes", action="store_true", help="do not ask")
    drop.set_defaults(run=run_drop)
    listing = verbs.add_parser(
        "collections",
        help="print which collections a directory holds",
        description="A line for each: name, images, bundle and last change, with tabs in between. "
        "The exit status is 1 where one is damaged.",
    )
    listing.add_argument("directory", metavar="DIR", type=Path, help="where the collections are")
    listing.add_argument(
        "--json", action="store_true", help='print an object {"collections": [...]}'
    )
    listing.set_defaults(run=run_collections)


def run_create(args: argparse.Namespace) -> int:
    from fromage_index.editor import create_collection

    bundle, provenance = open_bundle(args.bundle)
    create_collection(
        args.collection,
        dim=bundle.config.shared_dim,
        provenance=provenance,
        source="made by a command",
    )
    warning = warning_for(args.bundle)
    if warning is not None:
        print(f"fromage: {warning}", file=sys.stderr)
    print(f"{shown(str(args.collection))} is an empty collection for {shown(provenance.bundle)}")
    return 0


def run_drop(args: argparse.Namespace) -> int:
    """1 where the answer was no."""
    from fromage_index.editor import drop_collection
    from fromage_index.manifest import read_manifest
    from fromage_index.writer import check_nothing_else

    directory = args.collection.resolve()  # a link's own name would be moved, not the files
    manifest = read_manifest(directory)
    check_nothing_else(directory)
    name = shown(str(args.collection))
    if not args.yes and not _agreed(f"Delete {name} with its {manifest.images:,} images?"):
        print(f"{name} is kept")
        return 1
    drop_collection(directory)
    kept = f"; the pictures in {shown(manifest.root)} are still there" if manifest.root else ""
    print(f"{name} is dropped, {manifest.images:,} images{kept}")
    return 0


def _agreed(question: str) -> bool:
    """Raises SettingsError where nobody can be asked."""
    if not sys.stdin.isatty():
        raise SettingsError("drop asks first, and there is no terminal to ask on: say --yes")
    try:
        return input(f"{question} [y/N] ").strip().lower() in ("y", "yes")
    except EOFError:
        print()
        return False


def run_collections(args: argparse.Namespace) -> int:
    from fromage_index.errors import CollectionDamaged, CollectionNotFound
    from fromage_index.manifest import MANIFEST, read_manifest

    if not args.directory.is_dir():
        raise CollectionNotFound(f"{args.directory} is not a directory")
    found, damaged = {}, False
    for file in sorted(args.directory.glob(f"[!.]*/{MANIFEST}")):
        try:
            found[file.parent.name] = read_manifest(file.parent)
        except CollectionDamaged as error:
            print(f"fromage: {error}", file=sys.stderr)
            damaged = True
    if args.json:
        cards = [_card(name, manifest) for name, manifest in found.items()]
        print(as_json({"collections": cards}))
    else:
        for name, manifest in found.items():
            changed = manifest.changed_at or manifest.created_at
            bundle = shown(manifest.provenance.bundle)
            print(shown(name), f"{manifest.images:,}", bundle, changed, sep="\t")
    return 1 if damaged else 0


def _card(name: str, manifest: Manifest) -> dict[str, Any]:
    """As the server describes it, without what only a server knows; and whose it is."""
    from fromage_index.manifest import unix_time

    return {
        "name": name,
        "size": manifest.images,
        "dim": manifest.dim,
        "bundle": manifest.provenance.bundle,
        "bundle_hash": manifest.provenance.bundle_hash,
        "created_at": unix_time(manifest.created_at),
        "changed_at": unix_time(manifest.changed_at or manifest.created_at),
    }
