"""``fromage index update``, ``remove``, ``repair`` and ``compact``: a collection that changes.

A server that has the collection open sees the changes with its next search.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from fromage_server.commands.index.shared import (
    DEVICES,
    add_collection,
    check_bundle,
    commit,
    named,
    parse_metadata,
)

if TYPE_CHECKING:
    from fromage_index.collection import Collection
    from fromage_index.editor import Amendment, Removal
    from fromage_index.repair import EmbedOne


def register(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    update = verbs.add_parser(
        "update",
        help="change the metadata of images",
        description="Where one of the images is unknown, none is changed. The exit status is 1 "
        "where an image's metadata would become too large; the others' is changed.",
    )
    _add_images(update)
    update.add_argument(
        "--metadata",
        metavar="JSON",
        type=parse_metadata,
        required=True,
        help="an object of fields to set; null takes one away, others stay",
    )
    update.set_defaults(run=run_update)
    remove = verbs.add_parser("remove", help="take images out of a collection")
    _add_images(remove)
    remove.set_defaults(run=run_remove)
    repairing = verbs.add_parser(
        "repair",
        help="keep what is sound of a damaged collection",
        description="With --bundle, images whose vectors are damaged are embedded again. What is "
        "lost is named; the exit status is 1 then.",
    )
    add_collection(repairing)
    repairing.add_argument(
        "--bundle", metavar="demo|PATH|HUB_ID", help="the model that the collection was made for"
    )
    repairing.add_argument("--device", choices=DEVICES, default="auto", help="default: auto")
    repairing.set_defaults(run=run_repair)
    compacting = verbs.add_parser(
        "compact",
        help="merge a collection's segments, and take what was removed from the disk",
        description="Adding does this in small steps by itself; removed images stay on the disk "
        "until their segment is merged.",
    )
    add_collection(compacting)
    compacting.set_defaults(run=run_compact)


def _add_images(parser: argparse.ArgumentParser) -> None:
    add_collection(parser)
    parser.add_argument("images", metavar="ID_OR_KEY", nargs="+", help="as `list` prints them")


def run_update(args: argparse.Namespace) -> int:
    from fromage_index.collection import Collection
    from fromage_index.editor import Amendment

    collection = Collection.open(args.collection, device="cpu")
    ids = named(collection, args.images)
    done = _change(collection, [Amendment(id, args.metadata) for id in ids])
    same = done.count(False)
    print(f"{done.count(True):,} changed" + (f", {same:,} had it already" if same else ""))
    return 0 if len(done) == len(ids) else 1


def run_remove(args: argparse.Namespace) -> int:
    from fromage_index.collection import Collection
    from fromage_index.editor import Removal

    collection = Collection.open(args.collection, device="cpu")
    ids = named(collection, args.images)
    done = _change(collection, [Removal(id) for id in ids])
    print(f"{len(done):,} removed; {collection.refreshed().size:,} images")
    return 0 if len(done) == len(ids) else 1


def _change(collection: Collection, changes: Sequence[Amendment | Removal]) -> list[bool]:
    """Of each that could be made, whether it changed anything; the others are named."""
    from fromage_index.editor import Done

    _, outcomes = commit(collection, changes)
    done = []
    for change, outcome in zip(changes, outcomes, strict=True):
        if isinstance(outcome, Done):
            done.append(outcome.changed)
        else:
            print(f"fromage: {change.id}: {outcome}", file=sys.stderr)
    return done


def run_compact(args: argparse.Namespace) -> int:
    from fromage_index.collection import Collection
    from fromage_index.compact import compact, everything

    collection = Collection.open(args.collection, device="cpu")
    before = sum(entry.bytes for entry in collection.manifest.files())
    run = everything(collection.store)
    if run is None or not compact(collection, run):
        print(f"{args.collection}: nothing to do")
        return 0
    manifest = collection.refreshed().manifest
    after = sum(entry.bytes for entry in manifest.files())
    print(
        f"{len(manifest.segments):,} segments instead of {len(collection.manifest.segments):,}, "
        f"{after / 1e6:,.1f} MB instead of {before / 1e6:,.1f} MB"
    )
    return 0


def run_repair(args: argparse.Namespace) -> int:
    from fromage_index.repair import repair

    report = repair(args.collection, _embed_one(args) if args.bundle is not None else None)
    for name in report.guessed:
        print(f"fromage: {name} was altered: what it says may be wrong", file=sys.stderr)
    for key in report.lost:
        print(f"fromage: lost: {key}", file=sys.stderr)
    print(
        f"{report.images:,} images, {report.embedded:,} embedded again, {len(report.lost):,} lost"
    )
    return 1 if report.lost else 0


def _embed_one(args: argparse.Namespace) -> EmbedOne:
    from fromage_index.manifest import read_manifest
    from fromage_weights.loading import load_image_embedder

    provenance = read_manifest(args.collection).provenance
    bundle = check_bundle(args.collection, provenance, args.bundle)
    embedder = load_image_embedder(bundle, device=args.device)
    return lambda picture: embedder.embed([embedder.prepare(picture)])[0]
