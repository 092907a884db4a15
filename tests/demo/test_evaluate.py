"""The evaluation's queries, its judging and its table."""

import pytest

from fromage_weights.demo import evaluate
from fromage_weights.demo.answers import counts_right, ground_right, names_right, words_of
from fromage_weights.demo.evaluate import Evaluation
from fromage_weights.demo.grammar import COLOURS
from fromage_weights.demo.measures import Row, paired_bootstrap, table
from fromage_weights.demo.protocols import Queries, draw_pool
from fromage_weights.demo.splits import split_of
from fromage_weights.demo.world import Scene
from fromage_weights.evaluation.responder import Reply
from fromage_weights.loading import load_grounded_model
from tests.conftest import ROOT


@pytest.fixture(scope="module")
def pool() -> list[Scene]:
    return draw_pool("test", 5000)


def test_queries_are_held_out_and_of_one_split(pool: list[Scene]) -> None:
    queries = Queries("test", pool)
    assert len(set(pool)) == len(pool) == 5000
    assert sum(scene.is_pair for scene in pool) == 2500
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
    others = Queries("validation", draw_pool("validation", 5000))
    uploads = {query.upload for query in others.descriptions(100, others.single)}
    assert not uploads & {query.upload for query in queries.descriptions(100, queries.single)}


def test_seeds_draw_other_queries(pool: list[Scene]) -> None:
    first, second = (Queries("test", pool, seed=seed).full_requests(20) for seed in (0, 1))
    assert first != second
    assert first == Queries("test", pool, seed=0).full_requests(20)


def test_three_turns_add_up() -> None:
    queries = Queries("validation", draw_pool("validation", 5000))
    for query in queries.three_turns(40):
        assert [len(query.turns), query.turns[0].wish is None] == [3, False]
        first, last = query.turns[0].wish, query.wish
        assert first is not None
        assert last is not None
        assert first.objects == last.objects
        assert first.background is None


def test_stories_need_what_came_before(pool: list[Scene]) -> None:
    for story in Queries("test", pool).stories(40):
        assert len(story.captions) == len(story.scenes) == 5
        goal = story.scenes[-1]
        assert split_of(goal) == "test"
        assert not any(
            colour in caption.split() for caption in story.captions for colour in COLOURS
        )
        words = story.captions[-1].lower()
        assert goal.objects[0] not in words, "the last caption alone doesn't name the thing"
        assert len(set(story.scenes)) == 5
        assert {scene.background for scene in story.scenes} == {goal.background}


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
    row = Row("found", 80, 100, 75, 85)
    assert row.interval[0] == pytest.approx(71.1, abs=0.1)
    assert row.interval[1] == pytest.approx(86.7, abs=0.1)
    assert row.meets(row.first) is True
    assert row.meets(row.good) is False
    assert Row("stray", 5, 100, 3, below=True).meets(3) is False
    _, found, other = table([row, Row("other", 1, 3)]).splitlines()
    assert found.endswith("≥ 75   ! ≥ 85")
    assert other.endswith("–        –")


def test_a_difference_is_significant_when_most_resamples_show_it() -> None:
    worse = [False] * 60 + [True] * 40
    assert paired_bootstrap(worse, [True] * 20 + worse[20:]) < 0.001
    assert paired_bootstrap(worse, worse) == 1.0
    even = [True] * 50 + [False] * 50
    assert 0.3 < paired_bootstrap(even, even[::-1]) < 0.7


@pytest.fixture(scope="module")
def evaluation() -> Evaluation:
    """A small one: the validation split, 400 pictures, a dozen queries for a row."""
    loaded = load_grounded_model("demo", device="cpu", dtype="float32")
    return Evaluation(loaded, split="validation", pool=400, queries=12, seeds=(0, 1))


def _told(line: str) -> tuple[str, float | None, float | None]:
    """A row of the card: name, and its two targets."""
    name, *_, first, good = (cell.strip() for cell in line.strip("|\n").split("|"))
    numbers = [None if cell == "–" else float(cell.lstrip("≥≤ ")) for cell in (first, good)]
    return name.partition(" (better")[0], *numbers  # type: ignore[return-value]


@pytest.mark.slow
def test_every_row_is_measured_with_the_cards_targets(
    evaluation: Evaluation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluate, "STORIES", 6)
    rows = evaluation.rows()
    card = (ROOT / "weights" / "MODEL_CARD.md").read_text()
    table = card.partition("| first version | good |")[2].partition("\n\n")[0]
    told = [_told(line) for line in table.splitlines()[2:]]
    found = [(row.name.strip(), row.first, row.good) for row in rows]
    if found[-1][0] != evaluate.OTHER_HAND:  # where its font is not installed
        told = [row for row in told if row[0] != evaluate.OTHER_HAND]
    assert found == told
    by_name = {row.name: row for row in rows}
    assert by_name["[RET] where a picture is asked for"].hits >= 20
    assert by_name["known thing wrongly refused"].hits <= 4
    assert by_name["chat, object only: first picture has it"].hits >= 10
    assert by_name["question: which background"].hits >= 10


@pytest.mark.slow
def test_a_model_that_says_nothing_has_nothing_right(
    evaluation: Evaluation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Evaluation, "ask", lambda self, queries: [Reply("", None) for _ in queries])
    rows = {row.name: row for row in (*evaluation._requests(), *evaluation._questions())}
    missed = rows.pop("known thing wrongly refused")
    assert missed.hits == missed.total
    assert [row.name for row in rows.values() if row.hits] == []
