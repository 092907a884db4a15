"""``fromage index bench``: what making and searching a collection costs on this machine."""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from fromage_server.arguments import positive
from fromage_server.commands.index.shared import DEVICES
from fromage_server.errors import SettingsError

if TYPE_CHECKING:
    from fromage_index.collection import Collection
    from fromage_index.segment import Float32

_ROUNDS = 20


def register(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = verbs.add_parser(
        "bench",
        help="measure on this machine what making and searching a collection costs",
        description="The points are random, and nothing of it is kept. Searches are the server's: "
        "exact, and on a CPU by one core.",
    )
    parser.add_argument(
        "--images", metavar="N", type=positive, default=50_000, help="default: %(default)s"
    )
    parser.add_argument(
        "--dim", metavar="E", type=positive, default=256, help="default: %(default)s"
    )
    parser.add_argument("--device", choices=DEVICES, default="auto", help="default: auto")
    parser.set_defaults(run=run_bench)


def run_bench(args: argparse.Namespace) -> int:
    from fromage_index import faiss_build
    from fromage_index.collection import Collection
    from fromage_server.searches import MOST_TOGETHER

    faiss_build.check()
    import faiss

    faiss.omp_set_num_threads(1)
    with TemporaryDirectory(prefix="fromage-bench-") as folder:
        out = Path(folder) / "collection"
        try:
            vectors = random_units(args.images, args.dim, seed=0)
            made = _took(lambda: write_vectors(out, vectors))
            begun = time.perf_counter()
            collection = Collection.open(out, device=args.device)
            opened = time.perf_counter() - begun
        except MemoryError:
            raise SettingsError(
                f"{args.images:,} vectors of {args.dim:,} numbers do not fit into memory here"
            ) from None
        collection.search(vectors[:MOST_TOGETHER], 4)  # the first one makes what the others use
        queries = random_units(MOST_TOGETHER * _ROUNDS, args.dim, seed=1)
        one = _each(collection, queries[:_ROUNDS, None])
        many = _each(collection, queries.reshape(_ROUNDS, MOST_TOGETHER, args.dim))
    alone, together = statistics.median(one), statistics.median(many)
    lines = {
        "images": f"{args.images:,}, {args.dim} numbers each: "
        f"{args.images * args.dim * 4 / 1e6:,.0f} MB of vectors",
        "made in": f"{made:.2f} s, without encoding pictures",
        "opened in": f"{opened:.2f} s",
        "one query": f"{1000 * alone:.2f} ms (the longest of {_ROUNDS}: {1000 * max(one):.2f})",
        f"{MOST_TOGETHER} together": f"{1000 * together:.2f} ms, {together / alone:.2f} of one "
        f"query's: {MOST_TOGETHER / together:,.0f} queries a second, one after another "
        f"{1 / alone:,.0f}",
    }
    for name, value in lines.items():
        print(f"{name:<12}{value}")
    return 0


def _each(collection: Collection, batches: Float32) -> list[float]:
    """How long the search for each of (N, Q, E) took, in seconds."""
    return [_took(partial(collection.search, batch, 4)) for batch in batches]


def _took(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def random_units(count: int, dim: int, seed: int) -> Float32:
    """(count, dim) random unit vectors."""
    import numpy as np

    vectors = np.random.default_rng(seed).standard_normal((count, dim), dtype=np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors


def write_vectors(out: Path, vectors: Float32) -> None:
    """A collection with these vectors (N, E), whose images are somewhere else."""
    from fromage_index.manifest import Provenance
    from fromage_index.writer import CollectionWriter

    provenance = Provenance(bundle="bench", bundle_hash="0" * 64)
    dim = vectors.shape[1]
    with CollectionWriter(out, dim=dim, provenance=provenance, source="bench") as writer:
        for i, vector in enumerate(vectors):
            writer.add(str(i), vector, url=f"https://example.org/{i}.png")
        writer.commit()
