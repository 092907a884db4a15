"""What recorded passes with prompts are fed with; the kernels they use need Triton, and are tried
in ``test_pages``."""

import random
from itertools import pairwise

import pytest
import torch

from fromage_server.engine.attention import BLOCK_SIZE, Layout, Span
from fromage_server.engine.attention_pages import Tables, _any_tiles, _tiles
from fromage_server.engine.prompt_graphs import Numbers, Room, token_sizes, write_numbers

CPU = torch.device("cpu")
SPARE = 99
ROOM = Room(tokens=80, streams=5, pages=6)


def spans_of(rng: random.Random) -> list[Span]:
    """A step with room in ROOM, of single tokens and longer pieces."""
    spans: list[Span] = []
    for _ in range(rng.randint(1, ROOM.streams)):
        start = spans[-1].stop if spans else 0
        past, count = rng.randint(0, 40), rng.choice((1, rng.randint(1, 16)))
        blocks = tuple(rng.sample(range(SPARE), ROOM.pages))
        spans.append(Span(start, start + count, past, blocks))
    return spans


def numbers_of(spans: list[Span], kept: list[int], size: int) -> Numbers:
    """In memory where an earlier step has left other numbers."""
    numbers = Numbers.within(torch.full((6 * 84,), 77, dtype=torch.int32), size, ROOM)
    write_numbers(numbers, spans, kept, SPARE)
    return numbers


@pytest.mark.parametrize("seed", range(20))
def test_a_step_and_its_padding(seed: int) -> None:
    rng = random.Random(seed)
    spans = spans_of(rng)
    count, size = spans[-1].stop, 80
    kept = [rng.randrange(span.start, span.stop) for span in spans]
    numbers = numbers_of(spans, kept, size)
    layout = Layout.of(spans, CPU)
    expected = [at for span in spans for at in range(span.past, span.length)]
    assert numbers.positions.tolist() == expected + [0] * (size - count)
    assert numbers.places[:count].tolist() == layout.places.tolist()
    assert {place // BLOCK_SIZE for place in numbers.places[count:].tolist()} <= {SPARE}
    tables = Tables.of(layout)
    assert numbers.starts.tolist()[: len(spans) + 1] == tables.starts.tolist()
    assert set(numbers.starts.tolist()[len(spans) + 1 :]) == {size}
    rest = [0] * (ROOM.rows - len(spans))
    assert numbers.lengths.tolist() == tables.lengths.tolist() + rest
    again = ROOM.streams - len(spans)
    assert numbers.kept.tolist() == kept + kept[:1] * again
    assert numbers.owners.tolist() == [*range(len(spans))] + [0] * again


@pytest.mark.parametrize("seed", range(20))
def test_tiles_of_any_step_are_those_of_this_one(seed: int) -> None:
    """And others, which have no tokens."""
    rng = random.Random(seed)
    spans, tokens = spans_of(rng), rng.choice((1, 2, 8, 64))
    numbers = numbers_of(spans, [span.start for span in spans], 80)
    tables = Tables(numbers.starts, numbers.lengths, torch.empty(ROOM.rows, 6), 80, 96)
    found = list(zip(*(part.tolist() for part in _any_tiles(tables, tokens)), strict=True))
    padding = range(0, 80 - spans[-1].stop, tokens)
    expected = list(
        zip(*(part.tolist() for part in _tiles(Layout.of(spans, CPU), tokens)), strict=True)
    )
    expected += [(len(spans), first) for first in padding]
    assert found[: len(expected)] == expected
    assert {sequence for sequence, _ in found[len(expected) :]} <= {ROOM.rows - 1}
    counts = numbers.starts.diff().tolist()
    assert all(first >= counts[sequence] for sequence, first in found[len(expected) :])


def test_no_step_needs_more_tiles() -> None:
    """The worst one: a token more than a tile each."""
    spans = [Span(9 * i, 9 * i + 9, 0, tuple(range(6))) for i in range(5)]
    numbers = numbers_of(spans, [0] * 5, 80)
    tables = Tables(numbers.starts, numbers.lengths, torch.empty(ROOM.rows, 6), 80, 96)
    sequences = _any_tiles(tables, 8)[0].tolist()
    assert [sequences.count(i) for i in range(6)] == [2, 2, 2, 2, 2, 5]


def test_sizes() -> None:
    assert token_sizes(40) == [40]
    assert token_sizes(64) == [64]
    assert token_sizes(150) == [64, 128, 150]
    sizes = token_sizes(2064)
    assert sizes[-1] == 2064
    assert sizes == sorted(set(sizes))
    assert all(after <= 1.34 * before for before, after in pairwise(sizes[2:]))
