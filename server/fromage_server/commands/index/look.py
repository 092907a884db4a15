"""``fromage index info``, ``list``, ``search`` and ``verify``: what is in a collection."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from fromage_server.arguments import positive
from fromage_server.commands.index.shared import (
    add_collection,
    add_model,
    check_bundle,
    parse_object,
)

if TYPE_CHECKING:
    from fromage_index.collection import Collection
    from fromage_index.record import ImageRecord
    from fromage_index.segment import Float32

_PAGE = 500


def register(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    info = verbs.add_parser(
        "info", help="print what a collection holds, after checking every file of it"
    )
    add_collection(info)
    info.set_defaults(run=run_info)
    listing = verbs.add_parser(
        "list",
        help="print a collection's images, the newest first",
        description="A line for each image: id, key, size and metadata, with tabs in between.",
    )
    add_collection(listing)
    listing.set_defaults(run=run_list)
    _register_search(verbs)
    verify = verbs.add_parser(
        "verify",
        help="check every file of a collection, and every image that it refers to",
        description="The exit status is 1 where a file of the collection is damaged.",
    )
    add_collection(verify)
    verify.set_defaults(run=run_verify)


def _register_search(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = verbs.add_parser(
        "search",
        help="print the images that [RET] brings behind a text, or that are like a picture",
        description="A line for each image: score, id, key and metadata, with tabs in between.",
    )
    add_collection(parser)
    query = parser.add_mutually_exclusive_group(required=True)
    query.add_argument("text", metavar="TEXT", nargs="?", help="what stands in front of [RET]")
    query.add_argument("--image", metavar="FILE", type=Path, help="a picture instead of a text")
    add_model(parser)
    parser.add_argument("-k", metavar="N", type=positive, default=10, help="default: %(default)s")
    parser.add_argument(
        "--filter",
        metavar="JSON",
        type=parse_object,
        help='conditions on the metadata, such as \'{"year": {"gte": 2020}}\'',
    )
    parser.add_argument(
        "--min-score", metavar="X", type=float, help="least cosine, from -1 to 1 (default: any)"
    )
    parser.set_defaults(run=run_search)


def run_info(args: argparse.Namespace) -> int:
    from fromage_index.store import verify

    manifest = verify(args.collection)
    kept = sum(entry.bytes for entry in manifest.files())
    lines = {
        "collection": args.collection,
        "images": f"{manifest.images:,}",
        "unreadable": f"{manifest.unreadable:,} (see unreadable.log)"
        if manifest.unreadable
        else "0",
        "source": manifest.source,
        "files": f"referenced below {manifest.root}" if manifest.root else "in the collection",
        "dimension": manifest.dim,
        "bundle": f"{manifest.provenance.bundle} ({manifest.provenance.bundle_hash[:12]})",
        "created": f"{manifest.created_at} by {manifest.created_with}",
        "changed": manifest.changed_at or "never",
        "size": f"{kept / 1e6:,.1f} MB, every checksum right",
    }
    for name, value in lines.items():
        print(f"{name:<12}{value}")
    return 0


def run_list(args: argparse.Namespace) -> int:
    from fromage_index.collection import Collection

    collection = Collection.open(args.collection, device="cpu")
    after: int | None = None
    try:
        while True:
            page = collection.page(_PAGE, after)
            for record in page.images:
                size = f"{record.width}x{record.height}" if record.width else "-"
                print(record.id, _shown(record.key), size, _metadata(record), sep="\t")
            after = page.next
            if after is None:
                return 0
    except BrokenPipeError:  # the reader has seen enough
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def run_search(args: argparse.Namespace) -> int:
    from fromage_index.collection import Collection
    from fromage_index.filter import Filter

    collection = Collection.open(args.collection, device="cpu")
    wanted = Filter.parse(args.filter) if args.filter is not None else None
    hits = collection.search(
        _query(collection, args), args.k, filter=wanted, min_score=args.min_score
    )[0]
    for hit in hits:
        record = collection.image(hit.id)
        print(f"{hit.score:.4f}", record.id, _shown(record.key), _metadata(record), sep="\t")
    return 0


def run_verify(args: argparse.Namespace) -> int:
    from fromage_index.collection import Collection
    from fromage_index.store import verify

    manifest = verify(args.collection)
    print(f"{len(manifest.files()):,} files, every checksum right")
    collection = Collection.open(args.collection, device="cpu")
    missing = [id for id in collection.ids if not collection.readable(id)]
    for id in missing:
        print(f"{id}\t{_shown(collection.image(id).key)}\tcannot be opened", file=sys.stderr)
    print(f"{collection.size - len(missing):,} of {collection.size:,} images can be shown")
    return 0


def _query(collection: Collection, args: argparse.Namespace) -> Float32:
    """(1, E)."""
    bundle = check_bundle(collection.directory, collection.provenance, args.bundle)
    if args.image is None:
        from fromage_weights.evaluation.queries import caption_queries
        from fromage_weights.loading import load_grounded_model

        model = load_grounded_model(args.bundle, device=args.device, vision=False).model
        query: Float32 = caption_queries(model, [args.text]).numpy()
        return query
    from fromage_index.decode import decode_image
    from fromage_index.files import read_image_file
    from fromage_weights.loading import load_image_embedder

    embedder = load_image_embedder(bundle, device=args.device)
    return embedder.embed([embedder.prepare(decode_image(read_image_file(args.image)))])


def _metadata(record: ImageRecord) -> str:
    return json.dumps(record.metadata, ensure_ascii=False)


def _shown(key: str) -> str:
    """On one line, and without anything that a terminal obeys: others may have named it."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in key)
