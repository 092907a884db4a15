"""The evaluation's queries, its judging and its table."""

import pytest

from fromage_weights.demo.answers import counts_right, ground_right, names_right, words_of
from fromage_weights.demo.measures import Row, table
from fromage_weights.demo.protocols import Queries
from fromage_weights.demo.splits import split_of
from fromage_weights.demo.world import Scene


def test_queries_are_held_out_and_of_one_split() -> None:
    queries = Queries("test")
    pool = queries.pool(5000)
    assert len(set(pool)) == len(pool) == 5000
    for query in [*queries.full_requests(100), *queries.three_turns(50), *queries.edits(50)]:
        wish = query.wish
        assert wish is not None
        assert wish.count is not None
        assert wish.background is not None
        goal = Scene(wish.objects, wish.count, wish.background)
        assert split_of(goal) == "test"
        assert goal in pool
    for query in queries.descriptions(50, queries.pair):
        assert query.upload in pool
    assert not set(Queries("validation").pool(5000)[:100]) & {
        query.upload for query in queries.descriptions(100, queries.single)
    }


def test_three_turns_add_up() -> None:
    for query in Queries("validation").three_turns(40):
        assert [len(query.turns), query.turns[0].wish is None] == [3, False]
        first, last = query.turns[0].wish, query.wish
        assert first is not None
        assert last is not None
        assert first.objects == last.objects
        assert first.background is None


def test_answers_are_judged_by_their_words() -> None:
    scene = Scene(("dog",), 2, "blue")
    words = words_of("These are two dogs on a blue background.")
    assert names_right(scene, words)
    assert counts_right(scene, words)
    assert ground_right(scene, words)
    other = words_of("This is a cat on a red background.")
    assert not names_right(scene, other)
    assert not counts_right(scene, other)
    assert not ground_right(scene, other)
    assert counts_right(Scene(("cat",), 1, "red"), other)


def test_rows_have_intervals_and_targets() -> None:
    row = Row("found", 80, 100, 75)
    assert row.interval[0] == pytest.approx(71.1, abs=0.1)
    assert row.interval[1] == pytest.approx(86.7, abs=0.1)
    assert row.met is True
    assert Row("stray", 5, 100, 3, below=True).met is False
    text = table([row, Row("other", 1, 3)])
    assert "met" in text
    assert "reported" in text
