"""Which images stand in for a [RET], over a real collection with files that don't open."""

from typing import TypeVar

import numpy as np
import pytest

from fromage_index.collection import Collection, Hit
from fromage_index.manifest import Provenance
from fromage_index.writer import CollectionWriter
from fromage_server.errors import ApiError
from fromage_server.finder import DistinctFinder, ReferenceFinder, best_readable
from fromage_server.gallery import Gallery, Scope
from fromage_server.live import LiveCollection
from fromage_server.schema.options import RetrievalOptions
from fromage_server.searches import Searches, Searching
from tests.server.pictures import encoded, picture

T = TypeVar("T")
UNREADABLE = {1, 4}
COUNT = 8


@pytest.fixture(scope="module")
def scope(tmp_path_factory: pytest.TempPathFactory) -> Scope:
    """Image i has cosine 1 - i/20 with the query (1, 0); those of UNREADABLE don't open."""
    folder = tmp_path_factory.mktemp("pictures")
    out = folder / "collection"
    provenance = Provenance(bundle="test", bundle_hash="0" * 64)
    with CollectionWriter(out, dim=2, provenance=provenance, source="test", root=folder) as writer:
        for i in range(COUNT):
            data = b"no picture" if i in UNREADABLE else encoded(picture(i))
            (folder / f"{i}.png").write_bytes(data)
            cosine = 1 - i / 20
            vector = np.array([cosine, (1 - cosine**2) ** 0.5], dtype=np.float32)
            writer.add(str(i), vector, path=f"{i}.png", metadata={"even": i % 2 == 0})
        writer.commit()
    live = LiveCollection("test", Collection.open(out, device="cpu"))
    found = Gallery([live]).scope(RetrievalOptions())
    assert found is not None
    return found


QUERY = np.array([1, 0], dtype=np.float32)


def run(work: Searching[T]) -> T:
    searches = Searches()
    try:
        return searches.submit(work).result(60)
    finally:
        searches.close()


def keys(scope: Scope, hits: list[Hit]) -> list[int]:
    return [int(scope.collection.image(hit.id).key) for hit in hits]


def find(scope: Scope, finder: DistinctFinder | ReferenceFinder) -> tuple[list[int], list[int]]:
    found = run(finder.find(QUERY))
    return keys(scope, list(found.shown)), keys(scope, list(found.alternatives))


def test_three_more_than_wanted_are_tried(scope: Scope) -> None:
    assert find(scope, DistinctFinder(scope, 1, ())) == ([0], [2, 3])
    assert find(scope, DistinctFinder(scope, 2, ())) == ([0, 2], [3])


def test_what_was_shown_does_not_come_again(scope: Scope) -> None:
    finder = DistinctFinder(scope, 1, ())
    assert [find(scope, finder)[0] for _ in range(7)] == [[0], [2], [3], [5], [6], [7], []]


def test_excluded_images_are_not_shown(scope: Scope) -> None:
    best = scope.search(QUERY[None], 1)[0][0].id
    assert find(scope, DistinctFinder(scope, 1, [best]))[0] == [2]


def test_the_reference_puts_what_it_tried_behind_everything_else(scope: Scope) -> None:
    finder = ReferenceFinder(scope, 2)
    shown = [find(scope, finder)[0] for _ in range(5)]
    # 0, (1), 2 | 3, (4), 5 | 6, 7 | all tried once: from the best again | 3, (4), 5
    assert shown == [[0, 2], [3, 5], [6, 7], [0, 2], [3, 5]]


def test_the_reference_needs_a_large_enough_collection(scope: Scope) -> None:
    assert find(scope, ReferenceFinder(scope, COUNT - 3))[0] == [0, 2, 3, 5, 6]
    with pytest.raises(ApiError, match="at least 9 images"):
        run(ReferenceFinder(scope, COUNT - 2).find(QUERY))


def test_as_many_readable_ones_as_asked_for(scope: Scope) -> None:
    assert keys(scope, run(best_readable(scope, QUERY, 6, ())).hits) == [0, 2, 3, 5, 6, 7]
    assert keys(scope, run(best_readable(scope, QUERY, 100, ())).hits) == [0, 2, 3, 5, 6, 7]
    assert keys(scope, run(best_readable(scope, QUERY, 3, ())).hits) == [0, 2, 3]
