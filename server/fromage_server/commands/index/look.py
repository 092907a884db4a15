"""``fromage index info``, ``list``, ``search`` and ``verify``: what is in a collection."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fromage_server.arguments import place_in_list, positive
from fromage_server.commands.index.shared import (
    add_collection,
    add_model,
    as_json,
    check_bundle,
    parse_object,
    shown,
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
    _register_list(verbs)
    _register_search(verbs)
    verify = verbs.add_parser(
        "verify",
        help="check every file of a collection, and every image that it refers to",
        description="The exit status is 1 where a file of the collection is damaged.",
    )
    add_collection(verify)
    verify.set_defaults(run=run_verify)


def _register_list(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = verbs.add_parser(
        "list",
        help="print a collection's images, the newest first",
        description="A line for each image: id, key, size and metadata, with tabs in between.",
    )
    add_collection(parser)
    parser.add_argument(
        "--limit", metavar="N", type=positive, help="images to print at most (default: all)"
    )
    parser.add_argument(
        "--after",
        metavar="PLACE",
        type=place_in_list,
        help="begin where an earlier list with a limit ended, at what it called `next`",
    )
    parser.add_argument(
        "--json",
        action="store_true",
        help='print an object {"images": [...], "next", "total"}, as the server answers',
    )
    parser.set_defaults(run=run_list)


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

    listing = _Listing(Collection.open(args.collection, device="cpu"), args.limit, args.after)
    try:
        if args.json:
            listing.print_json()
        else:
            listing.print_lines()
    except BrokenPipeError:  # the reader has seen enough
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


class _Listing:
    """Images from a place on; `next` is where those begin that the limit left out."""

    def __init__(self, collection: Collection, limit: int | None, after: int | None) -> None:
        self._collection = collection
        self._left = collection.size if limit is None else limit
        self.next = after

    def print_lines(self) -> None:
        for record in self._images():
            size = f"{record.width}x{record.height}" if record.width else "-"
            print(record.id, shown(record.key), size, as_json(record.metadata), sep="\t")
        if self.next is not None:
            print(f"fromage: there are more: --after {self.next}", file=sys.stderr)

    def print_json(self) -> None:
        """As it comes, an image on a line."""
        opening = '{"images": ['
        for record in self._images():
            print(opening, as_json(_described(record)), sep="\n", end="")
            opening = ","
        place = None if self.next is None else str(self.next)
        end = {"next": place, "total": self._collection.size}
        print("" if opening == "," else opening, f"], {as_json(end)[1:]}", sep="\n")

    def _images(self) -> Iterator[ImageRecord]:
        while self._left > 0:
            page = self._collection.page(min(self._left, _PAGE), self.next)
            yield from page.images
            self._left -= len(page.images)
            self.next = page.next
            if self.next is None:
                return


def _described(record: ImageRecord) -> dict[str, Any]:
    """As the server describes it; where it is, is said as the collection knows it."""
    return {
        "id": record.id,
        "key": record.key,
        "path": None if record.path is None else str(record.path),
        "url": record.url,
        "width": record.width,
        "height": record.height,
        "metadata": record.metadata,
    }


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
        told = (record.id, shown(record.key), as_json(record.metadata))
        print(f"{hit.score:.4f}", *told, sep="\t")
    return 0


def run_verify(args: argparse.Namespace) -> int:
    from fromage_index.collection import Collection
    from fromage_index.store import verify

    manifest = verify(args.collection)
    print(f"{len(manifest.files()):,} files, every checksum right")
    collection = Collection.open(args.collection, device="cpu")
    missing = [id for id in collection.ids if not collection.readable(id)]
    for id in missing:
        print(f"{id}\t{shown(collection.image(id).key)}\tcannot be opened", file=sys.stderr)
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
