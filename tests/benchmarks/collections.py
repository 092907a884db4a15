"""Collections of random vectors, to be searched."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from fromage_index.collection import Collection
from fromage_server.commands.index.bench import random_units, write_vectors
from fromage_server.gallery import Gallery, Scope
from fromage_server.live import LiveCollection
from fromage_server.schema.options import RetrievalOptions


@contextmanager
def large_collection(images: int, dim: int) -> Iterator[Scope]:
    """As a server has it open."""
    with TemporaryDirectory() as folder:
        out = Path(folder) / "collection"
        write_vectors(out, random_units(images, dim, seed=0))
        scope = Gallery([LiveCollection("bench", Collection.open(out, device="cpu"))]).scope(
            RetrievalOptions()
        )
        assert scope is not None
        yield scope
