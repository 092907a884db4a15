"""``fromage index``: collections of images that [RET] searches."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fromage_index.build import Progress
    from fromage_index.manifest import Provenance
    from fromage_weights.bundle import Bundle

_DEVICES = ("auto", "cpu", "cuda")


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    index = subparsers.add_parser("index", help="make a collection of images, or look at one")
    verbs = index.add_subparsers(dest="verb", required=True, metavar="VERB")
    _register_build(verbs)
    _register_import(verbs)
    _register_info(verbs)


def _register_build(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = verbs.add_parser(
        "build",
        help="make a collection of a folder of images",
        description="Embed every image below FOLDER. A metadata.jsonl or metadata.csv in it, with "
        "file_name and any other fields on a line, gives the images' metadata. What cannot be "
        "read is skipped, counted, and named in DIR/unreadable.log.",
    )
    parser.add_argument("folder", metavar="FOLDER", type=Path, help="searched recursively")
    _add_target(parser)
    parser.add_argument(
        "--copy",
        action="store_true",
        help="keep the images in the collection (default: refer to them where they are)",
    )
    parser.add_argument(
        "--batch-size", metavar="N", type=_positive, default=32, help="default: %(default)s"
    )
    parser.add_argument("--device", choices=_DEVICES, default="auto", help="default: %(default)s")
    parser.set_defaults(run=run_build)


def _register_import(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = verbs.add_parser(
        "import-reference",
        help="make a collection of the official cc3m_embeddings*.pkl",
        description="Read embeddings that the official FROMAGe code computed. Nothing in the "
        "pickles is executed. Several files are joined in the order of their names.",
    )
    parser.add_argument(
        "sources",
        metavar="DIR_OR_PKL",
        type=Path,
        nargs="+",
        help="cc3m_embeddings*.pkl files, or directories that hold them",
    )
    _add_target(parser)
    parser.add_argument(
        "--images",
        metavar="ROOT",
        type=Path,
        help="the folder that the embeddings' paths start from (URLs need none)",
    )
    parser.set_defaults(run=run_import_reference)


def _register_info(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = verbs.add_parser(
        "info", help="print what a collection holds, after checking every file of it"
    )
    parser.add_argument("collection", metavar="DIR", type=Path)
    parser.set_defaults(run=run_info)


def _add_target(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--collection", metavar="DIR", type=Path, required=True, help="directory to write to"
    )
    parser.add_argument(
        "--bundle", metavar="demo|PATH|HUB_ID", required=True, help="the model to search it with"
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="replace the collection that is there"
    )


def run_build(args: argparse.Namespace) -> int:
    from fromage_index.build import build_from_folder
    from fromage_index.writer import check_target
    from fromage_weights.loading import load_image_embedder

    check_target(args.collection, overwrite=args.overwrite)
    bundle, provenance = _open_bundle(args.bundle)
    embedder = load_image_embedder(bundle, device=args.device)
    with _progress_bar("embedding") as progress:
        report = build_from_folder(
            args.folder,
            args.collection,
            embedder.embed,
            dim=bundle.config.shared_dim,
            provenance=provenance,
            prepare=embedder.prepare,
            copy=args.copy,
            overwrite=args.overwrite,
            batch_size=args.batch_size,
            progress=progress,
        )
    print(f"{report.images:,} images in {args.collection}")
    if report.unreadable:
        print(f"{report.unreadable:,} could not be read; they are named in {report.log}")
    return 0


def run_import_reference(args: argparse.Namespace) -> int:
    from fromage_index.import_reference import import_reference

    bundle, provenance = _open_bundle(args.bundle)
    with _progress_bar("importing") as progress:
        report = import_reference(
            args.sources,
            args.collection,
            dim=bundle.config.shared_dim,
            provenance=provenance,
            images_root=args.images,
            overwrite=args.overwrite,
            progress=progress,
        )
    print(
        f"{report.rows:,} images in {args.collection}: {report.files:,} files, "
        f"{report.urls:,} known by URL, {report.missing:,} without a file"
    )
    if report.missing and args.images is None:
        print("pass --images ROOT to say where the files are")
    return 0


def run_info(args: argparse.Namespace) -> int:
    from fromage_index.store import verify

    manifest = verify(args.collection)
    kept = sum(entry.bytes for segment in manifest.segments for entry in segment.files())
    lines = {
        "collection": args.collection,
        "images": f"{manifest.rows:,}",
        "unreadable": f"{manifest.unreadable:,} (see unreadable.log)"
        if manifest.unreadable
        else "0",
        "source": manifest.source,
        "files": f"referenced below {manifest.root}" if manifest.root else "in the collection",
        "dimension": manifest.dim,
        "bundle": f"{manifest.provenance.bundle} ({manifest.provenance.bundle_hash[:12]})",
        "created": f"{manifest.created_at} by {manifest.created_with}",
        "size": f"{kept / 1e6:,.1f} MB, every checksum right",
    }
    for name, value in lines.items():
        print(f"{name:<12}{value}")
    return 0


def _open_bundle(name: str) -> tuple[Bundle, Provenance]:
    from fromage_index.manifest import Provenance
    from fromage_weights.bundle import Bundle
    from fromage_weights.loading import bundle_directory

    bundle = Bundle.load(bundle_directory(name))
    return bundle, Provenance(bundle=bundle.config.name, bundle_hash=bundle.hash)


@contextmanager
def _progress_bar(what: str) -> Iterator[Progress]:
    from tqdm import tqdm

    with tqdm(desc=what, unit=" images", dynamic_ncols=True) as bar:

        def progress(done: int, total: int | None) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield progress


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is too small; at least 1")
    return number
