"""What waits for the search thread is searched for together, and finds what it would alone."""

import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import CancelledError
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fromage_index.collection import Collection, Hit
from fromage_index.editor import Removal, edit
from fromage_index.errors import BadQuery
from fromage_index.filter import Filter
from fromage_index.manifest import Provenance
from fromage_index.writer import CollectionWriter
from fromage_server.gallery import Gallery, Scope
from fromage_server.live import LiveCollection
from fromage_server.schema.options import RetrievalOptions
from fromage_server.searches import (
    FEW_IMAGES,
    MOST_TOGETHER,
    Query,
    Search,
    Searches,
    Searching,
    search_together,
)
from tests.index.pictures import unit_rows
from tests.server.searching import hold

COUNT, DIM = 300, 8


def units(count: int, seed: int) -> np.ndarray:
    return unit_rows(count, DIM, seed)


def write(out: Path, vectors: np.ndarray) -> None:
    provenance = Provenance(bundle="test", bundle_hash="0" * 64)
    with CollectionWriter(out, dim=DIM, provenance=provenance, source="test") as writer:
        for i, vector in enumerate(vectors):
            url = f"https://example.org/{i}.png"
            writer.add(str(i), vector, url=url, metadata={"fifth": i % 5})
        writer.commit()


@pytest.fixture(scope="module")
def gallery(tmp_path_factory: pytest.TempPathFactory) -> Gallery:
    """Every third vector is the one before once more: equal scores keep their order."""
    out: Path = tmp_path_factory.mktemp("searches") / "collection"
    vectors = units(COUNT, 0)
    vectors[2::3] = vectors[1::3]
    write(out, vectors)
    return Gallery([LiveCollection("test", Collection.open(out, device="cpu"))])


@pytest.fixture
def scope(gallery: Gallery) -> Scope:
    return scope_of(gallery)


@pytest.fixture
def searches() -> Iterator[Searches]:
    searches = Searches()
    yield searches
    searches.close()


@pytest.fixture
def sizes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many queries each look at a collection served."""
    found: list[int] = []
    search = Scope.search

    def counted(
        self: Scope, queries: np.ndarray, k: int, exclude: Iterable[str] = ()
    ) -> list[list[Hit]]:
        found.append(len(queries))
        return search(self, queries, k, list(exclude))

    monkeypatch.setattr(Scope, "search", counted)
    return found


def scope_of(gallery: Gallery, **options: object) -> Scope:
    scope = gallery.scope(RetrievalOptions.model_validate(options))
    assert scope is not None
    return scope


def wishes(scope: Scope, count: int, seed: int = 1) -> list[Search]:
    """Different numbers of images, without some of the best."""
    made = []
    for i, query in enumerate(units(count, seed)):
        best = [hit.id for hit in scope.collection.search(query[None], 9, filter=scope.filter)[0]]
        made.append(Search(scope, query, 1 + i % 7, frozenset([*best[: i % 4], "nobody"])))
    return made


def alone(wish: Search) -> list[Hit]:
    scope = wish.scope
    (hits,) = scope.collection.search(
        wish.query[None],
        wish.k,
        exclude=wish.exclude,
        filter=scope.filter,
        min_score=scope.min_score,
    )
    return hits


def once(wish: Search) -> Searching[list[Hit]]:
    return (yield wish).hits


@pytest.mark.parametrize("options", [{}, {"filter": {"fifth": 3}}, {"min_score": 0.8}])
def test_together_each_finds_what_it_would_alone(
    gallery: Gallery, options: dict[str, object]
) -> None:
    wanted = wishes(scope_of(gallery, **options), 40)
    expected = [alone(wish) for wish in wanted]
    assert [result.hits for result in search_together(wanted)] == expected


def test_what_waits_is_searched_for_together(
    scope: Scope, searches: Searches, sizes: list[int]
) -> None:
    gate = hold(searches)
    wanted = [Search(scope, query, 4) for query in units(MOST_TOGETHER + 4, 2)]
    futures = [searches.submit(once(wish)) for wish in wanted]
    gate.set()
    assert [future.result(60) for future in futures] == [alone(wish) for wish in wanted]
    assert sizes == [MOST_TOGETHER, 4]


def test_only_what_is_alike_is_searched_for_together(
    gallery: Gallery, searches: Searches, sizes: list[int]
) -> None:
    """Another filter, another least score, and very many images are looks of their own."""
    gate = hold(searches)
    plain, third = scope_of(gallery), scope_of(gallery, filter={"fifth": 3})
    scopes = (plain, third, scope_of(gallery, min_score=0.8))
    queries = units(4, 3)
    wanted = [Search(scope, query, 4) for query in queries for scope in scopes]
    wanted.append(Search(plain, queries[0], FEW_IMAGES - 1, frozenset(["nobody", "either"])))
    wanted.append(Search(plain, queries[0], FEW_IMAGES + 1))
    futures = [searches.submit(once(wish)) for wish in wanted]
    gate.set()
    assert [future.result(60) for future in futures] == [alone(wish) for wish in wanted]
    assert sizes == [4, 4, 4, 1, 1]


def test_answers_come_in_the_order_of_asking(gallery: Gallery, searches: Searches) -> None:
    """What is like the first does not go before those between, whose own search comes first."""
    gate, order = hold(searches), list[int]()
    plain, third = scope_of(gallery), scope_of(gallery, filter={"fifth": 3})

    def noted(place: int, wish: Search) -> Searching[None]:
        yield wish
        order.append(place)

    scopes = [plain, third, third, plain, third, plain]
    query = units(1, 9)[0]
    futures = [
        searches.submit(noted(place, Search(scope, query, 4))) for place, scope in enumerate(scopes)
    ]
    gate.set()
    for future in futures:
        future.result(60)
    assert order == list(range(len(scopes)))


def test_the_collection_is_searched_as_it_is_by_then(gallery: Gallery, tmp_path: Path) -> None:
    """Those that ask together get one state of it, whichever they began with."""
    out = tmp_path / "collection"
    write(out, units(5, 10))
    live = LiveCollection("changing", Collection.open(out, device="cpu"))
    changing = Gallery([live])
    before = scope_of(changing)
    edit(live.snapshot, [Removal(before.collection.ids[0])])
    after = scope_of(changing)
    query = units(1, 11)[0]
    assert after.collection is not before.collection
    for result in search_together([Search(before, query, 5), Search(after, query, 5)]):
        assert result.scope.collection is after.collection
        assert len(result.hits) == 4


def test_a_filter_whose_field_is_gone_finds_nothing(gallery: Gallery) -> None:
    scope = replace(scope_of(gallery), filter=Filter.parse({"nobody": 1}))
    wanted = [Search(scope, query, 4) for query in units(3, 12)]
    assert [result.hits for result in search_together(wanted)] == [[], [], []]


def test_work_may_search_several_times(scope: Scope, searches: Searches) -> None:
    def both(queries: list[Query]) -> Searching[list[str]]:
        first = yield Search(scope, queries[0], 3)
        gone = frozenset(hit.id for hit in first.hits)
        second = yield Search(scope, queries[1], 3, gone)
        return [hit.id for hit in first.hits + second.hits]

    queries = list(units(20, 4))
    futures = [searches.submit(both([query, query])) for query in queries]
    for query, future in zip(queries, futures, strict=True):
        assert future.result(60) == [hit.id for hit in alone(Search(scope, query, 6))]


def test_who_wants_more_waits_for_the_others(scope: Scope, searches: Searches) -> None:
    def twice() -> Searching[None]:
        for _ in range(2):
            yield wish
            order.append("twice")

    def noted() -> Searching[None]:
        yield wish
        order.append("once")

    gate, order = hold(searches), list[str]()
    wish = Search(scope, units(1, 13)[0], 1)
    futures = [searches.submit(work()) for work in (twice, noted, noted)]
    gate.set()
    for future in futures:
        future.result(60)
    assert order == ["twice", "once", "once", "twice"]


def test_one_that_cannot_be_searched_for_fails_alone(scope: Scope, searches: Searches) -> None:
    gate = hold(searches)
    wanted = [Search(scope, query, 4) for query in units(3, 5)]
    wanted[1] = Search(scope, np.full(DIM, np.nan, dtype=np.float32), 4)
    futures = [searches.submit(once(wish)) for wish in wanted]
    gate.set()
    with pytest.raises(BadQuery):
        futures[1].result(60)
    assert futures[0].result(60) == alone(wanted[0])
    assert futures[2].result(60) == alone(wanted[2])


def test_what_work_raises_is_its_own(scope: Scope, searches: Searches) -> None:
    def fails() -> Searching[None]:
        yield Search(scope, units(1, 6)[0], 1)
        raise OSError("away")

    future = searches.submit(fails())
    with pytest.raises(OSError, match="away"):
        future.result(60)
    assert searches.submit(once(Search(scope, units(1, 6)[0], 1))).result(60)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_nothing_that_work_raises_stops_the_others(scope: Scope, searches: Searches) -> None:
    def leaves() -> Searching[None]:
        yield from ()
        raise SystemExit

    gate = hold(searches)
    left = searches.submit(leaves())
    stays = searches.submit(once(Search(scope, units(1, 6)[0], 1)))
    gate.set()
    with pytest.raises(SystemExit):
        left.result(60)
    assert stays.result(60)


def test_nobody_searches_for_one_who_left(
    scope: Scope, searches: Searches, sizes: list[int]
) -> None:
    gate = hold(searches)
    wish = Search(scope, units(1, 7)[0], 1)
    left, stays = (searches.submit(once(wish)) for _ in range(2))
    assert left.cancel()
    gate.set()
    assert stays.result(60)
    assert sizes == [1]


def test_the_end_waits_for_what_is_under_way_alone(scope: Scope, searches: Searches) -> None:
    gate = hold(searches)
    wish = Search(scope, units(1, 8)[0], 1)
    waiting = searches.submit(once(wish))
    closing = threading.Thread(target=searches.close)
    closing.start()
    late = searches.submit(once(wish))
    while not late.cancelled():  # it was faster than the end
        late = searches.submit(once(wish))
    assert closing.is_alive()
    gate.set()
    closing.join(60)
    with pytest.raises(CancelledError):
        waiting.result(60)
