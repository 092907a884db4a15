"""What the verbs have in common."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from fromage_server.errors import StartupError

if TYPE_CHECKING:
    from fromage_index.build import Progress
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


@contextmanager
def progress_bar(what: str) -> Iterator[Progress]:
    from tqdm import tqdm

    with tqdm(desc=what, unit=" images", dynamic_ncols=True) as bar:

        def progress(done: int, total: int | None) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield progress
