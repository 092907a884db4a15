"""Collections of random vectors, to be searched."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from fromage_index.collection import Collection
from fromage_index.writer import CollectionWriter
from fromage_server.collections import provenance_of
from fromage_server.commands.index.bench import random_units, write_vectors
from fromage_server.gallery import Gallery, Scope
from fromage_server.live import LiveCollection
from fromage_server.schema.options import RetrievalOptions
from fromage_weights.bundle import Bundle


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


def write_collection(bundle: Path, images: int) -> Path:
    """One that a server of the bundle can search; where it is."""
    loaded, out = Bundle.load(bundle), bundle / "collection"
    dim, provenance = loaded.config.shared_dim, provenance_of(loaded)
    with CollectionWriter(out, dim=dim, provenance=provenance, source="bench") as writer:
        for i, vector in enumerate(random_units(images, dim, seed=0)):
            writer.add(str(i), vector, url=f"https://example.org/{i}.png")
        writer.commit()
    return out
