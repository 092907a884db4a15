"""Who has which block of the KV storage, and which full blocks can be used again.

A block holds the keys and values of ``size`` consecutive positions in every layer. Blocks are
counted: a full block whose positions stand in front of another prompt too is shared. A block that
nobody has any more keeps its content, and its place in the prefix cache, until it is needed.

On a CPU, attention is fastest over neighbouring blocks, so a sequence gets neighbours, with free
room behind them for the reply it is going to write. That room is only a preference: whoever needs
it takes it.
"""

from collections.abc import Hashable, Sequence
from itertools import pairwise

import numpy as np

BlockContent = tuple[Hashable, ...]  # what stands at each position of a full block
# In units of ages, so that nothing that is merely old ever costs as much.
_CLAIMED = 1 << 40
_IN_USE = 1 << 60


class PrefixCache:
    """Full blocks by what they and all blocks before them hold.

    A key is the chain so far (a number that stands for one list of blocks) and the block's own
    content; the dictionary compares what it finds, so equal hashes alone never match.
    """

    ROOT = 0

    def __init__(self) -> None:
        self._blocks: dict[tuple[int, BlockContent], int] = {}
        self._keys: dict[int, tuple[int, BlockContent]] = {}
        self._chains: dict[int, int] = {}  # block -> the chain that ends with it
        # Blocks that came to hold the same as one that is known already, and which one that is.
        self._equals: dict[int, list[int]] = {}
        self._equal_to: dict[int, int] = {}
        self._last = self.ROOT

    def __len__(self) -> int:
        return len(self._keys)

    def __contains__(self, block: int) -> bool:
        return block in self._keys

    def find(self, chain: int, content: BlockContent) -> int | None:
        return self._blocks.get((chain, content))

    def chain_of(self, block: int) -> int:
        return self._chains[block]

    def put(self, block: int, chain: int, content: BlockContent) -> int:
        """Remember ``block`` and return the chain that ends with it. Of two equal blocks the first
        one is found, while it is there; the other's chain is the same."""
        key = (chain, content)
        known = self._blocks.get(key)
        if known is not None:
            if known != block:
                self._equals.setdefault(known, []).append(block)
                self._equal_to[block] = known
            return self._chains[known]
        self._last += 1
        self._blocks[key], self._keys[block], self._chains[block] = block, key, self._last
        return self._last

    def forget(self, block: int) -> None:
        """``block`` holds something else now. An equal one takes its place, so that what stands
        behind that is still found."""
        if block in self._equal_to:
            self._equals[self._equal_to.pop(block)].remove(block)
        key = self._keys.pop(block, None)
        if key is None:
            return
        chain, equals = self._chains.pop(block), self._equals.pop(block, [])
        if not equals:
            del self._blocks[key]
            return
        heir, *others = equals
        self._blocks[key], self._keys[heir], self._chains[heir] = heir, key, chain
        del self._equal_to[heir]
        self._equals[heir] = others
        self._equal_to.update(dict.fromkeys(others, heir))


class BlockPool:
    """``count`` blocks of ``size`` positions."""

    def __init__(self, count: int, size: int, *, neighbours: bool = True) -> None:
        """``neighbours`` False: where a block lies is all the same, as it is for page tables."""
        self.count, self.size = count, size
        self._neighbours = neighbours
        self.prefixes = PrefixCache()
        self._holders = np.zeros(count, dtype=np.int32)
        # What taking a block costs: nothing where it is blank, else when it was last of use.
        self._costs = np.zeros(count, dtype=np.int64)
        self._claims: dict[str, tuple[int, int]] = {}  # owner -> its room, [start, stop)
        self._clock = 0

    @property
    def free(self) -> int:
        """Blocks that can be had, those of the prefix cache included."""
        return self.count - int(np.count_nonzero(self._holders))

    @property
    def used(self) -> int:
        return self.count - self.free

    def blocks_for(self, positions: int) -> int:
        return -(-positions // self.size)

    def match(self, contents: Sequence[BlockContent]) -> list[int]:
        """The longest run of cached blocks that hold ``contents`` from the beginning."""
        found: list[int] = []
        chain = PrefixCache.ROOT
        for content in contents:
            block = self.prefixes.find(chain, content)
            if block is None:
                break
            chain = self.prefixes.chain_of(block)
            found.append(block)
        return found

    def held(self, blocks: Sequence[int]) -> int:
        """How many of ``blocks`` somebody holds."""
        return int(np.count_nonzero(self._holders[list(blocks)]))

    def share(self, blocks: Sequence[int]) -> None:
        """One more holder for each of ``blocks``."""
        for block in blocks:
            self._holders[block] += 1

    def take(self, owner: str, blocks: list[int], count: int, expected: int) -> bool:
        """Append ``count`` blocks to ``blocks``, the owner's; False, and no change, where so many
        are not free. ``expected``: how many more it is likely to need in the end, these included.
        """
        if count > self.free:
            return False
        if not self._neighbours and count:
            costs = np.where(self._holders > 0, _IN_USE, self._costs)
            self._hold(blocks, np.argpartition(costs, count - 1)[:count].tolist())
            return True
        while count:
            start, room = self._place(owner, blocks, max(count, expected))
            fresh = range(start, start + min(count, room))
            self._hold(blocks, fresh)
            count -= len(fresh)
            expected -= len(fresh)
        return True

    def _hold(self, blocks: list[int], fresh: Sequence[int]) -> None:
        for block in fresh:
            self.prefixes.forget(block)
            self._holders[block] = 1
        blocks.extend(fresh)

    def give_back(self, owner: str, blocks: Sequence[int], *, forget: bool = False) -> None:
        """One holder less; ``forget`` what they hold where it is not to be trusted."""
        self._claims.pop(owner, None)
        self._clock += len(blocks)
        for i, block in enumerate(blocks):
            self._holders[block] -= 1
            if forget:
                self.prefixes.forget(block)
            # What stands at the end goes first: without its beginning it could not be found.
            self._costs[block] = self._clock - i if block in self.prefixes else 0

    def check(self) -> None:
        """Raise AssertionError where blocks have leaked; for a pool whose owners are all gone."""
        assert self.used == 0, f"{self.used} blocks are held by nobody"
        assert not self._claims, f"room is kept for {sorted(self._claims)}"

    def _place(self, owner: str, blocks: Sequence[int], wanted: int) -> tuple[int, int]:
        """Where the next blocks come from: the place behind the last one, else the window of
        ``wanted`` blocks that is missed least. Returns its start and how many are free there."""
        costs = np.where(self._holders > 0, _IN_USE, self._costs)
        for other, (start, stop) in self._claims.items():
            if other != owner:
                window = costs[start:stop]
                window[window < _IN_USE] += _CLAIMED
        if blocks and (after := blocks[-1] + 1) < self.count and costs[after] < _CLAIMED:
            room = _run(costs, after, wanted)
            if owner in self._claims or room >= wanted:
                return after, room
        start, room = _cheapest(costs, wanted)
        self._claims[owner] = (start, start + room)
        return start, room


def _run(costs: np.ndarray, start: int, wanted: int) -> int:
    """How many blocks from ``start`` on, ``wanted`` at most, nobody has or has claimed."""
    taken = np.flatnonzero(costs[start : start + wanted] >= _CLAIMED)
    return int(taken[0]) if len(taken) else min(wanted, len(costs) - start)


def _cheapest(costs: np.ndarray, wanted: int) -> tuple[int, int]:
    """The start of the window whose dearest block is cheapest, and its size: ``wanted``, or less
    where there is no such window."""
    size = min(wanted, len(costs))
    while True:
        dearest = _dearest(costs, size)
        start = int(dearest.argmin())
        if dearest[start] < _CLAIMED or (size == 1 and dearest[start] < _IN_USE):
            return start, size
        size = max(1, size // 2)


def _dearest(costs: np.ndarray, size: int) -> np.ndarray:
    """The largest of every ``size`` neighbours: of windows of one, of two, of four, and then two
    that overlap."""
    width = 1
    while 2 * width <= size:
        costs = np.maximum(costs[:-width], costs[width:])
        width *= 2
    rest = size - width
    return np.maximum(costs[:-rest], costs[rest:]) if rest else costs


def runs_of(blocks: Sequence[int]) -> list[tuple[int, int]]:
    """Neighbours joined: [(first block, how many), …]."""
    if not blocks:
        return []
    found, first, count = [], blocks[0], 1
    for before, block in pairwise(blocks):
        if block == before + 1:
            count += 1
        else:
            found.append((first, count))
            first, count = block, 1
    return [*found, (first, count)]
