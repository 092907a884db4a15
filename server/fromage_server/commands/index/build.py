"""``fromage index build`` and ``import-reference``: collections made of what is there."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from fromage_server.arguments import positive
from fromage_server.commands.index.shared import DEVICES, open_bundle, progress_bar
from fromage_server.demo_world import warning_for


def register_build(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
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
        "--batch-size", metavar="N", type=positive, default=32, help="default: %(default)s"
    )
    parser.add_argument("--device", choices=DEVICES, default="auto", help="default: %(default)s")
    parser.set_defaults(run=run_build)


def register_import(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
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
    warning = warning_for(args.bundle)
    if warning is not None:
        print(f"fromage: {warning}", file=sys.stderr)
    bundle, provenance = open_bundle(args.bundle)
    embedder = load_image_embedder(bundle, device=args.device)
    with progress_bar("embedding") as progress:
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

    bundle, provenance = open_bundle(args.bundle)
    with progress_bar("importing") as progress:
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
