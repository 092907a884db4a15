"""The fast search against a naive loop over all rows."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from fromage_index import parts
from fromage_index.coded import CodedIndex, is_worth_it, pays
from fromage_index.collection import Collection, Hit
from fromage_index.errors import BadFilter, BadQuery, DimensionMismatch
from fromage_index.filter import Filter
from fromage_index.flat import FlatIndex, _usual_threshold
from tests.index.conftest import MakeCollection
from tests.index.pictures import unit_rows

DIM = 16
KINDS = ["cat", "dog", "fish"]


def naive(
    vectors: NDArray[np.float32], query: NDArray[np.float32], k: int, rows: list[int]
) -> list[tuple[int, float]]:
    wide = vectors.astype(np.float64)
    scores = [(-float(np.float32(np.dot(wide[row], query))), row) for row in rows]
    return [(row, -score) for score, row in sorted(scores)[:k]]


def assert_same(hits: list[Hit], want: list[tuple[int, float]]) -> None:
    assert [hit.row for hit in hits] == [row for row, _ in want]
    np.testing.assert_allclose([hit.score for hit in hits], [s for _, s in want], atol=1e-6)


@pytest.fixture(params=["flat", "coded"], autouse=True)
def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Codes are held of large collections only."""
    monkeypatch.setattr(parts, "is_worth_it", lambda rows, dim: request.param == "coded")
    monkeypatch.setattr(parts, "pays", lambda: True)


@pytest.fixture
def vectors() -> NDArray[np.float32]:
    return unit_rows(200, DIM)


@pytest.fixture
def collection(vectors: NDArray[np.float32], make_collection: MakeCollection) -> Collection:
    metadata = [{"kind": KINDS[row % 3], "n": row} for row in range(len(vectors))]
    return make_collection(vectors, metadata, segment_rows=64)


@pytest.mark.parametrize("k", [1, 5, 200, 1000])
@pytest.mark.parametrize("queries", [1, 21])
def test_equals_the_naive_loop(
    collection: Collection, vectors: NDArray[np.float32], k: int, queries: int
) -> None:
    wanted = unit_rows(queries, DIM, seed=1)
    for query, hits in zip(wanted, collection.search(wanted, k), strict=True):
        assert_same(hits, naive(vectors, query, k, list(range(200))))
        assert hits == collection.search(query[None], k)[0]


def test_exclusion(collection: Collection, vectors: NDArray[np.float32]) -> None:
    (query,) = unit_rows(1, DIM, seed=2)
    best = collection.search(query[None], 50)[0]
    for count in (1, 20, 50):
        gone = {hit.id for hit in best[:count]}
        hits = collection.search(query[None], 5, exclude=gone | {"unknown"})[0]
        rows = [row for row in range(200) if row not in {hit.row for hit in best[:count]}]
        assert_same(hits, naive(vectors, query, 5, rows))
    everything = {hit.id for hit in collection.search(query[None], 200)[0]}
    assert collection.search(query[None], 5, exclude=everything) == [[]]


@pytest.mark.parametrize(
    ("spec", "keep"),
    [
        ({"kind": "dog"}, lambda row: row % 3 == 1),
        ({"kind": {"in": ["cat", "fish"]}, "n": {"lt": 50}}, lambda row: row % 3 != 1 and row < 50),
        ({"n": {"gte": 7, "lte": 7}}, lambda row: row == 7),
        ({"kind": "bird"}, lambda row: False),
    ],
)
def test_filters(
    collection: Collection, vectors: NDArray[np.float32], spec: dict[str, Any], keep: Any
) -> None:
    (query,) = unit_rows(1, DIM, seed=3)
    rows = [row for row in range(200) if keep(row)]
    hits = collection.search(query[None], 4, filter=Filter.parse(spec))[0]
    assert_same(hits, naive(vectors, query, 4, rows))
    if hits:
        others = collection.search(query[None], 4, filter=Filter.parse(spec), exclude=[hits[0].id])[
            0
        ]
        assert_same(others, naive(vectors, query, 4, [r for r in rows if r != hits[0].row]))


def test_a_filter_on_a_field_that_no_image_has(collection: Collection) -> None:
    with pytest.raises(BadFilter, match="the fields are: kind, n") as caught:
        collection.search(unit_rows(1, DIM), 1, filter=Filter.parse({"colour": "red"}))
    assert caught.value.field == "colour"


def test_min_score_is_a_cosine(collection: Collection, vectors: NDArray[np.float32]) -> None:
    query = vectors[17]
    ranked = collection.search(query[None], 200)[0]
    assert ranked[0].row == 17
    assert ranked[0].score == pytest.approx(1.0)
    floor = ranked[9].score
    assert collection.search(query[None], 200, min_score=floor)[0] == ranked[:10]
    assert len(collection.search(query[None], 200, min_score=-1.0)[0]) == 200
    dogs = collection.search(
        query[None], 200, min_score=floor, filter=Filter.parse({"kind": "dog"})
    )
    assert dogs == [[hit for hit in ranked[:10] if hit.row % 3 == 1]]


@pytest.mark.parametrize("queries", [1, 40])
def test_ties_keep_the_collections_order(make_collection: MakeCollection, queries: int) -> None:
    """200 rows are the same vector, more than are fetched from FAISS."""
    vectors = unit_rows(300, DIM)
    vectors[50:250] = vectors[50]
    collection = make_collection(vectors, [{"all": 1}] * 300, segment_rows=33)
    wanted = np.concatenate([vectors[50:51], unit_rows(queries - 1, DIM, seed=4)])
    for filter in (None, Filter.parse({"all": 1})):
        hits = collection.search(wanted, 10, filter=filter)[0]
        assert [hit.row for hit in hits] == list(range(50, 60))
        later = collection.search(wanted, 10, exclude=[hits[0].id, hits[3].id], filter=filter)[0]
        assert [hit.row for hit in later] == [51, 52, *range(54, 62)]


def test_more_than_faiss_returns_at_once(make_collection: MakeCollection) -> None:
    vectors = unit_rows(3000, 4)
    collection = make_collection(vectors, segment_rows=3000)
    (query,) = unit_rows(1, 4, seed=5)
    ranked = collection.search(query[None], 2500)[0]
    assert_same(ranked, naive(vectors, query, 2500, list(range(3000))))
    gone = [hit.id for hit in ranked[:2100]]
    assert collection.search(query[None], 400, exclude=gone)[0] == ranked[2100:]


def test_searches_from_many_threads(collection: Collection, vectors: NDArray[np.float32]) -> None:
    wanted = unit_rows(60, DIM, seed=6)
    alone = [collection.search(query[None], 5)[0] for query in wanted]
    some = Filter.parse({"n": {"lt": 100}})
    filtered = [collection.search(query[None], 5, filter=some)[0] for query in wanted]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda query: collection.search(query[None], 5)[0], wanted))
        also = list(pool.map(lambda q: collection.search(q[None], 5, filter=some)[0], wanted))
    assert together == alone
    assert also == filtered


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"k": 0}, BadQuery, "k: 0"),
        ({"min_score": 1.5}, BadQuery, "min_score: 1.5"),
        ({"min_score": float("nan")}, BadQuery, "min_score"),
        ({"queries": np.zeros((1, DIM), np.float32)}, BadQuery, "unit length"),
        ({"queries": np.full((1, DIM), np.nan, np.float32)}, BadQuery, "NaN"),
        ({"queries": unit_rows(1, DIM + 1)}, DimensionMismatch, r"\(1, 17\)"),
        ({"queries": unit_rows(1, DIM)[0]}, DimensionMismatch, r"\(16,\)"),
    ],
)
def test_bad_queries(
    collection: Collection, change: dict[str, Any], error: type[Exception], match: str
) -> None:
    arguments: dict[str, Any] = {"queries": unit_rows(1, DIM), "k": 3} | change
    with pytest.raises(error, match=match):
        collection.search(**arguments)


@pytest.mark.parametrize("rows", [400, 2500])
def test_many_that_are_nearly_as_good(make_collection: MakeCollection, rows: int) -> None:
    """More than are fetched, then more than FAISS returns, differ by less than codes can tell."""
    vectors = unit_rows(1, DIM) + 1e-4 * unit_rows(rows, DIM, seed=7)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    collection = make_collection(vectors, segment_rows=999)
    (query,) = unit_rows(1, DIM, seed=1)
    hits = collection.search(query[None], 5)[0]
    assert_same(hits, naive(vectors, query, 5, list(range(rows))))


@pytest.mark.parametrize("kind_of_index", [FlatIndex, CodedIndex])
def test_one_query_leaves_faiss_its_threads(kind_of_index: Any) -> None:
    import faiss

    usual = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(2)
    try:
        eye = np.eye(4, dtype=np.float32)
        index = FlatIndex(4, [eye], "cpu") if kind_of_index is FlatIndex else CodedIndex(4, eye)
        index.search(eye[:1], 1)
        assert faiss.omp_get_max_threads() == 2
    finally:
        faiss.omp_set_num_threads(usual)


def test_few_queries_are_multiplied_by_blas_where_faiss_has_cores_in_mind() -> None:
    import faiss

    usual = _usual_threshold()
    FlatIndex(256, [np.zeros((1, 256), dtype=np.float32)], "cpu")
    expected = {20: 4, 128_000: 4 * 256}.get(usual, usual)
    assert faiss.cvar.distance_compute_blas_threshold == expected


def _spiky(rows: int, dim: int) -> NDArray[np.float32]:
    """Nearly all in one component, as features of pictures can be."""
    vectors = unit_rows(rows, dim, seed=8)
    vectors[:, 1] += np.where(np.arange(rows) % 2, 5.0, -5.0)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors


@pytest.mark.parametrize("make", [unit_rows, _spiky, lambda rows, dim: np.eye(dim, dtype="f4")])
@pytest.mark.parametrize("dim", [3, 32, 100, 256])
def test_no_score_is_more_than_codes_say(make: Any, dim: int) -> None:
    vectors = make(500, dim)
    queries = np.concatenate([unit_rows(20, dim, seed=9), vectors[:20]])
    index = CodedIndex(dim, vectors)
    exact = queries.astype(np.float64) @ vectors.T.astype(np.float64)
    fetch = min(40, len(vectors))
    at_most, rows = index.search(queries, fetch)
    assert (np.take_along_axis(exact, rows, 1) <= at_most).all()
    others = exact.copy()
    np.put_along_axis(others, rows, -1.0, 1)
    assert (others <= at_most[:, -1:]).all()
    assert (np.diff(at_most, axis=1) <= 0).all()
    # Nor are they so far away that they say nothing.
    assert (at_most - np.take_along_axis(exact, rows, 1)).max() < 0.06


def test_codes_are_held_of_large_collections(
    make_collection: MakeCollection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parts, "is_worth_it", is_worth_it)
    large = make_collection(unit_rows(9000, 256), segment_rows=8500)
    kinds = [type(part.index) for part in large._index._parts]
    assert kinds == [CodedIndex, FlatIndex]
    assert isinstance(pays(), bool)
