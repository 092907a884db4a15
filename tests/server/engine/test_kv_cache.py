"""The cache's rows against plain lists of what was stored."""

import random

import torch
from torch import Tensor

from fromage_server.engine.kv_cache import LayerStates, SlotCache

SHAPES = ((2, 3), (1, 4))  # heads and head_dim may differ from layer to layer
CPU = torch.device("cpu")


def prompt(length: int) -> list[LayerStates]:
    return [(torch.randn(h, length, d), torch.randn(h, length, d)) for h, d in SHAPES]


class Naive:
    """Per owner and layer everything stored so far, (heads, T, head_dim)."""

    def __init__(self) -> None:
        self.stored: dict[str, list[LayerStates]] = {}

    def extend(self, owners: list[str], step: list[LayerStates]) -> None:
        for row, owner in enumerate(owners):
            self.stored[owner] = [
                (torch.cat([keys, k[row]], dim=1), torch.cat([values, v[row]], dim=1))
                for (keys, values), (k, v) in zip(self.stored[owner], step, strict=True)
            ]


def step(cache: SlotCache, naive: Naive) -> None:
    """One token for every row, compared in every layer with the plain lists."""
    rows = len(cache.owners)
    new = [(torch.randn(rows, h, 1, d), torch.randn(rows, h, 1, d)) for h, d in SHAPES]
    lengths = cache.lengths
    cache.prepare_step()
    mask = cache.padding_mask(CPU)
    width, offset = cache.get_mask_sizes(1, 0)
    naive.extend(cache.owners, new)
    for layer, (keys, values) in enumerate(new):
        found = cache.update(keys, values, layer)
        assert offset == 0
        assert found[0].shape[2] == width == cache.get_seq_length() + 1
        for row, owner in enumerate(cache.owners):
            expected = naive.stored[owner][layer]
            assert lengths[row] + 1 == expected[0].shape[1]
            check_row(found, row, expected, mask)
    cache.finish_step()


def check_row(found: LayerStates, row: int, expected: LayerStates, mask: Tensor | None) -> None:
    length = expected[0].shape[1]
    for stored, wanted in zip(found, expected, strict=True):
        assert torch.equal(stored[row, :, -length:], wanted)
        assert stored.isfinite().all()
    width = found[0].shape[2]
    if mask is None:
        assert width == length
    else:
        assert mask[row].tolist() == [False] * (width - length) + [True] * length


def test_random_joins_and_leaves() -> None:
    source = random.Random(0)
    torch.manual_seed(0)
    cache, naive = SlotCache(max_rows=4, max_length=300), Naive()
    for i in range(600):
        owner = str(i)
        if len(cache.owners) < 4 and source.random() < 0.2:
            naive.stored[owner] = prompt(source.choice([1, 5, 40, 150]))
            cache.join(owner, naive.stored[owner])
        for name in list(cache.owners):
            if source.random() < 0.02 or naive.stored[name][0][0].shape[1] >= 299:
                cache.leave(name)
        if cache.owners:
            step(cache, naive)


def test_one_long_sequence_among_short_ones() -> None:
    """The window wanders: short sequences come and go for far longer than the storage is wide."""
    torch.manual_seed(0)
    cache, naive = SlotCache(max_rows=2, max_length=100), Naive()
    for i in range(60):
        naive.stored[str(i)] = prompt(3)
        cache.join(str(i), naive.stored[str(i)])
        for _ in range(10):
            step(cache, naive)
        if i:
            cache.leave(str(i - 1))
    assert cache.allocated_bytes <= 2 * 4 * 126 * sum(2 * h * d for h, d in SHAPES)


def test_a_full_length_sequence_fits() -> None:
    cache, naive = SlotCache(max_rows=1, max_length=100), Naive()
    naive.stored["a"] = prompt(1)
    cache.join("a", naive.stored["a"])
    for _ in range(99):
        step(cache, naive)


def test_what_a_failed_sequence_leaves_behind_is_wiped() -> None:
    """The newcomer gets the failed one's row, and the bad column is inside its padding."""
    cache, naive = SlotCache(max_rows=2, max_length=50), Naive()
    for owner in ("good", "bad"):
        naive.stored[owner] = prompt(6)
        cache.join(owner, naive.stored[owner])
    poison = [torch.zeros(2, h, 1, d) for h, d in SHAPES]
    for layer, states in enumerate(poison):
        states[1] = torch.nan
        cache.update(states, states, layer)
    cache.finish_step()
    naive.extend(["good"], [(states, states) for states in poison])
    cache.leave("bad", wipe=True)
    step(cache, naive)
    naive.stored["new"] = prompt(1)
    cache.join("new", naive.stored["new"])
    step(cache, naive)


def test_clear_gives_the_memory_back() -> None:
    cache = SlotCache(max_rows=2, max_length=50)
    cache.join("a", prompt(6))
    assert cache.allocated_bytes > 0
    cache.clear()
    assert cache.allocated_bytes == 0
    assert cache.owners == []
    cache.join("b", prompt(3))
    assert cache.lengths == [3]
