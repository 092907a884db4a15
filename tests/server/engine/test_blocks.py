"""Blocks: who has them, what they hold, where they lie."""

import numpy as np
import pytest

from fromage_server.engine.blocks import BlockPool, _dearest, runs_of

A, B, C = (1, 2), (3, 4), (5, 6)  # contents of full blocks of two positions


def remember(pool: BlockPool, blocks: list[int], contents: list[tuple[int, int]]) -> None:
    chain = pool.prefixes.ROOT
    for block, content in zip(blocks, contents, strict=True):
        chain = pool.prefixes.put(block, chain, content)


def test_a_sequence_gets_neighbours_and_room_to_grow() -> None:
    pool = BlockPool(20, 2)
    first: list[int] = []
    second: list[int] = []
    assert pool.take("first", first, 3, expected=8)
    assert pool.take("second", second, 2, expected=5)
    for _ in range(5):
        assert pool.take("first", first, 1, expected=1)
    assert runs_of(first) == [(0, 8)]
    assert runs_of(second) == [(8, 2)]


def test_room_for_later_is_given_to_those_who_need_it_now() -> None:
    pool = BlockPool(6, 2)
    first: list[int] = []
    second: list[int] = []
    assert pool.take("first", first, 1, expected=6)
    assert pool.take("second", second, 5, expected=5)
    assert not pool.take("first", first, 1, expected=1)
    assert first == [0]
    pool.give_back("second", second)
    pool.give_back("first", first)
    pool.check()


def test_a_prefix_is_found_by_its_content_and_all_before_it() -> None:
    pool = BlockPool(9, 2)
    blocks: list[int] = []
    assert pool.take("a", blocks, 3, 3)
    remember(pool, blocks, [A, B, C])
    assert pool.match([A, B, C]) == blocks
    assert pool.match([A, B, A]) == blocks[:2]
    assert pool.match([B, C]) == []
    assert pool.match([A, C]) == blocks[:1]


def test_equal_hashes_do_not_match() -> None:
    class Same(int):
        def __hash__(self) -> int:
            return 0

    pool = BlockPool(9, 1)
    blocks: list[int] = []
    assert pool.take("a", blocks, 1, 1)
    pool.prefixes.put(blocks[0], pool.prefixes.ROOT, (Same(1),))
    assert pool.match([(Same(2),)]) == []
    assert pool.match([(Same(1),)]) == blocks


def test_what_is_shared_stays_until_its_last_holder_goes() -> None:
    pool = BlockPool(4, 2)
    blocks: list[int] = []
    assert pool.take("a", blocks, 2, 2)
    remember(pool, blocks, [A, B])
    pool.share(blocks)
    pool.give_back("a", blocks)
    assert pool.used == 2
    pool.give_back("b", blocks)
    assert pool.used == 0
    assert pool.match([A, B]) == blocks


def test_an_equal_block_takes_the_place_of_one_that_goes() -> None:
    pool = BlockPool(6, 2)
    first: list[int] = []
    second: list[int] = []
    third: list[int] = []
    for owner, blocks in (("a", first), ("b", second)):  # the same prompt at once
        assert pool.take(owner, blocks, 2, 2)
        remember(pool, blocks, [A, B])
    pool.give_back("a", first)
    assert pool.take("c", third, 4, 4)  # all that "b" does not hold
    chain = pool.prefixes.chain_of(second[1])
    assert pool.match([A, B]) == second
    pool.give_back("c", third)
    assert pool.take("b", second, 1, 1)
    pool.prefixes.put(second[2], chain, C)  # what is said next stands behind the same prompt
    assert pool.match([A, B, C]) == second
    pool.give_back("b", second, forget=True)
    assert pool.match([A]) == []
    assert len(pool.prefixes) == 0


def test_blank_blocks_go_first_then_the_longest_unused_and_ends_before_beginnings() -> None:
    pool = BlockPool(5, 2)
    old: list[int] = []
    new: list[int] = []
    assert pool.take("old", old, 2, 2)
    assert pool.take("new", new, 2, 2)
    remember(pool, old, [A, B])
    remember(pool, new, [B, C])
    pool.give_back("new", new)
    pool.give_back("old", old)
    taken: list[int] = []
    assert pool.take("x", taken, 1, 1)
    assert taken == [4]  # the blank one
    assert pool.take("y", taken, 1, 1)
    assert (pool.match([A, B]), pool.match([B, C])) == (old, new[:1])


def test_states_that_are_not_right_are_not_found_again() -> None:
    pool = BlockPool(4, 2)
    blocks: list[int] = []
    assert pool.take("a", blocks, 2, 2)
    remember(pool, blocks, [A, B])
    pool.give_back("a", blocks, forget=True)
    assert pool.match([A]) == []


def test_a_leak_is_noticed() -> None:
    pool = BlockPool(4, 2)
    assert pool.take("a", [], 1, 1)
    with pytest.raises(AssertionError, match="1 blocks are held by nobody"):
        pool.check()


def test_nothing_is_lost_or_doubled_in_a_long_life() -> None:
    rng = np.random.default_rng(0)
    pool = BlockPool(40, 2)
    held: dict[str, list[int]] = {}
    for i in range(2_000):
        draw = rng.random()
        if draw < 0.4 and held:
            name = list(held)[int(rng.integers(len(held)))]
            pool.give_back(name, held.pop(name), forget=rng.random() < 0.2)
        elif draw < 0.7 and held:
            name = list(held)[int(rng.integers(len(held)))]
            before, free = len(held[name]), pool.free
            count = int(rng.integers(1, 4))
            assert pool.take(name, held[name], count, count) == (count <= free)
            assert len(held[name]) in (before, before + count)
        else:
            contents = [(int(rng.integers(2)), 0) for _ in range(int(rng.integers(1, 6)))]
            found = pool.match(contents)
            pool.share(found)
            blocks = list(found)
            fresh = len(contents) - len(found)
            if pool.take(str(i), blocks, fresh, fresh + int(rng.integers(4))):
                held[str(i)] = blocks
                remember(pool, blocks, contents)
            else:
                pool.give_back(str(i), found)
        used = {block for blocks in held.values() for block in blocks}
        assert pool.used == len(used)
        assert all(len(set(blocks)) == len(blocks) for blocks in held.values())
    for name, blocks in held.items():
        pool.give_back(name, blocks)
    pool.check()


def test_where_blocks_lie_is_all_the_same_to_a_gpu() -> None:
    """Blank blocks first, then what has not been of use for the longest time."""
    pool = BlockPool(6, 2, neighbours=False)
    old: list[int] = []
    new: list[int] = []
    assert pool.take("old", old, 2, expected=6)
    assert pool.take("new", new, 2, expected=6)
    remember(pool, old, [A, B])
    remember(pool, new, [C, A])
    pool.give_back("old", old)
    pool.give_back("new", new)
    taken: list[int] = []
    assert pool.take("third", taken, 2, expected=2)
    assert not set(taken) & {*old, *new}
    assert pool.take("third", taken, 1, expected=1)
    assert taken[-1] == old[-1]  # the end of a text before its beginning
    assert pool.match([A, B]) == old[:1]
    assert pool.match([C, A]) == new
    assert not pool.take("third", taken, 4, expected=4)
    pool.give_back("third", taken)
    pool.check()


def test_the_window_that_is_missed_least() -> None:
    chance = np.random.default_rng(0)
    for _ in range(50):
        costs = chance.integers(0, 50, chance.integers(1, 40))
        for size in range(1, len(costs) + 1):
            windows = np.lib.stride_tricks.sliding_window_view(costs, size)
            assert _dearest(costs, size).tolist() == windows.max(axis=1).tolist()
