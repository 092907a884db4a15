"""Keys and values of the sequences that are decoded together.

Rows are aligned at their *ends*: in every layer's (rows, heads, columns, head_dim) storage the
newest token of each sequence stands in the same column.

    columns     0 . . start . . . . . . end . .
    row 0             k k k k k k k k k         starts[0] = start: the longest sequence
    row 1                     k k k k k         starts[1]

So one step writes one column, transformers' own causal and sliding-window masks are right for all
rows, and only a 2-D padding mask is ours. A sequence joins by writing its row, and leaves by
handing its place to the last row; nothing else is copied, except when the storage grows or the
window has wandered to its edge.

No number in the storage is ever NaN or infinite (masked columns still enter the attention's sum
with weight 0): it starts as zeros, and a sequence that failed is wiped.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

LayerStates = tuple[Tensor, Tensor]  # keys and values of one sequence, (heads, T, head_dim) each

_FIRST_COLUMNS = 128


@dataclass
class _Window:
    """The part of the storage in use, shared by all layers: ``rows`` x [start, end)."""

    rows: int = 0
    start: int = 0
    end: int = 0

    @property
    def width(self) -> int:
        return self.end - self.start


class SlotLayer(CacheLayerMixin):  # type: ignore[no-untyped-call]
    """One layer's storage. Sliding layers keep everything too: their mask hides what is old."""

    is_sliding = False
    keys: Tensor  # (rows, heads, columns, head_dim)
    values: Tensor

    def __init__(self, window: _Window, like: LayerStates, rows: int, columns: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._window = window
        self.keys, self.values = (_storage(states, rows, columns) for states in like)
        self.is_initialized = True

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> LayerStates:
        """(rows, heads, 1, head_dim) of this step -> everything up to and including it."""
        rows, start, end = self._window.rows, self._window.start, self._window.end
        self.keys[:rows, :, end] = key_states[:, :, 0]
        self.values[:rows, :, end] = value_states[:, :, 0]
        return self.keys[:rows, :, start : end + 1], self.values[:rows, :, start : end + 1]

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        raise AssertionError("a slot layer has its storage from the beginning")

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self._window.width + query_length, 0

    def get_seq_length(self) -> int:
        return self._window.width

    def get_max_length(self) -> int:
        return -1

    def move(self, rows: int, columns: int, shift: int) -> None:
        """Move the window by ``shift`` columns, into larger storage where this one is too small."""
        self.keys = self._moved(self.keys, rows, columns, shift)
        self.values = self._moved(self.values, rows, columns, shift)

    def _moved(self, storage: Tensor, rows: int, columns: int, shift: int) -> Tensor:
        window = self._window
        used = storage[: window.rows, :, window.start : window.end]
        if rows > storage.shape[0] or columns > storage.shape[2]:
            storage = _storage(storage[0], rows, columns)
        else:
            used = used.clone()
        storage[: window.rows, :, window.start + shift : window.end + shift] = used
        return storage


def _storage(like: Tensor, rows: int, columns: int) -> Tensor:
    heads, _, head_dim = like.shape
    return like.new_zeros(rows, heads, columns, head_dim)


class SlotCache(Cache):
    """At most ``max_rows`` sequences of at most ``max_length`` tokens; storage grows as needed."""

    def __init__(self, max_rows: int, max_length: int) -> None:
        super().__init__(layers=[])
        self._slots: list[SlotLayer] = []  # the same objects as in ``layers``
        self._window = _Window()
        self._max_rows = max_rows
        # A quarter more than one sequence can fill, so that moving back is rare.
        self._max_columns = max_length + max_length // 4 + 1
        self._rows = 0
        self._columns = 0
        self._starts: list[int] = []
        self.owners: list[str] = []  # row i belongs to owners[i]

    @property
    def lengths(self) -> list[int]:
        """Tokens stored per row, which is the position of the row's next token."""
        return [self._window.end - start for start in self._starts]

    @property
    def allocated_bytes(self) -> int:
        return sum(layer.keys.nbytes + layer.values.nbytes for layer in self._slots)

    def padding_mask(self, device: torch.device) -> Tensor | None:
        """(rows, width + 1) True where a row has a token, the coming one included; None where all
        rows are equally long."""
        if len(set(self._starts)) <= 1:
            return None
        columns = torch.arange(self._window.start, self._window.end + 1)
        return (columns >= torch.tensor(self._starts)[:, None]).to(device)

    def join(self, owner: str, states: Sequence[LayerStates]) -> None:
        """Store the prefilled ``states`` (one pair per layer) of a new sequence as the last row."""
        length = states[0][0].shape[1]
        end = max(self._window.end, length) if self.owners else length
        self._make_room(states, rows=len(self.owners) + 1, end=end)
        row = self._window.rows
        for layer, (keys, values) in zip(self._slots, states, strict=True):
            layer.keys[row, :, end - length : end] = keys
            layer.values[row, :, end - length : end] = values
        self.owners.append(owner)
        self._starts.append(end - length)
        self._fit_window()

    def leave(self, owner: str, *, wipe: bool = False) -> None:
        """Free the owner's row for the next step. ``wipe`` where it may hold NaN or infinities."""
        row, last = self.owners.index(owner), len(self.owners) - 1
        used = slice(self._window.start, self._window.end)
        for layer in self._slots:
            for storage in (layer.keys, layer.values):
                if wipe:
                    storage[row] = 0
                if row != last:
                    storage[row, :, used] = storage[last, :, used]
        self.owners[row], self._starts[row] = self.owners[last], self._starts[last]
        self.owners.pop()
        self._starts.pop()
        self._fit_window()

    def prepare_step(self) -> None:
        """Make sure that the coming step has a column to write to."""
        if self._window.end < self._columns:
            return
        if self._window.start >= self._columns // 5:
            self._move(self._rows, self._columns, -self._window.start)
        else:
            columns = min(2 * self._columns, self._max_columns)
            self._move(self._rows, columns, -self._window.start)

    def finish_step(self) -> None:
        """Every row has one token more."""
        self._window.end += 1

    def clear(self) -> None:
        """Forget every sequence and give the memory back."""
        self.layers, self._slots = [], []
        self._rows = self._columns = 0
        self._starts, self.owners = [], []
        self._fit_window()

    def _make_room(self, states: Sequence[LayerStates], rows: int, end: int) -> None:
        """Storage for ``rows`` rows whose tokens end in column ``end``."""
        if not self._slots:
            self._rows, self._columns = rows, max(_FIRST_COLUMNS, 2 * end)
            self._columns = min(self._columns, self._max_columns)
            self._slots = [
                SlotLayer(self._window, like, self._rows, self._columns) for like in states
            ]
            self.layers = [*self._slots]
        if not self.owners:
            self._window.start = self._window.end = end
        rows = self._rows if rows <= self._rows else min(2 * self._rows, self._max_rows)
        columns = self._columns
        if end > columns:
            columns = min(2 * end, self._max_columns)
        if end != self._window.end or (rows, columns) != (self._rows, self._columns):
            self._move(rows, columns, end - self._window.end)

    def _move(self, rows: int, columns: int, shift: int) -> None:
        for layer in self._slots:
            layer.move(rows, columns, shift)
        self._rows, self._columns = rows, columns
        self._window.start += shift
        self._window.end += shift
        self._starts = [start + shift for start in self._starts]

    def _fit_window(self) -> None:
        self._window.rows = len(self.owners)
        self._window.start = min(self._starts, default=0)
        if not self.owners:
            self._window.end = 0
