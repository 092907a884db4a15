"""What a causal model has read, kept from one reply to the next.

transformers' own layers of a cache are copied whole for every token, and know batches only as they
began: here they grow in place, and each row's part can be taken out and put into another batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from transformers.cache_utils import DynamicCache, DynamicLayer

_ROOM = 64  # tokens to come, for which a layer has room from the start


class GrowingLayer(DynamicLayer):  # type: ignore[no-untyped-call]
    """Keys and values (B, heads, T, d) at the front of larger tensors, to be read and `update`d by
    a model, or to have rows selected from."""

    def __init__(self, keys: Tensor, values: Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.lazy_initialization(keys, values)
        self._hold(keys, values)

    def _hold(self, keys: Tensor, values: Tensor, room: int = _ROOM) -> None:
        self._buffers = (_with_room(keys, room), _with_room(values, room))
        self._show(keys.shape[-2])

    def _show(self, length: int) -> None:
        self.keys, self.values = (buffer[..., :length, :] for buffer in self._buffers)

    def states(self) -> tuple[Tensor, Tensor]:
        """Keys and values (B, heads, T, d)."""
        assert self.keys is not None
        assert self.values is not None
        return self.keys, self.values

    def update(
        self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any
    ) -> tuple[Tensor, Tensor]:
        held = self.states()
        start, new = held[0].shape[-2], key_states.shape[-2]
        if start + new > self._buffers[0].shape[-2]:
            self._hold(*held, new + _ROOM)
        for buffer, states in zip(self._buffers, (key_states, value_states), strict=True):
            buffer[..., start : start + new, :] = states
        self._show(start + new)
        return self.states()

    def batch_select_indices(self, indices: Tensor) -> None:
        keys, values = self.states()
        self._hold(keys[indices], values[indices])


def _with_room(states: Tensor, room: int) -> Tensor:
    *outer, length, width = states.shape
    larger = states.new_empty(*outer, length + room, width)
    larger[..., :length, :] = states
    return larger


def let_grow(cache: Any) -> Any:
    """``cache``, with those of its layers that hold all keys and values growing in place."""
    for i, layer in enumerate(getattr(cache, "layers", ())):
        if type(layer) is DynamicLayer and layer.keys is not None and layer.values is not None:
            cache.layers[i] = GrowingLayer(layer.keys, layer.values)
    return cache


@dataclass(frozen=True)
class Memory:
    """What was read of one chat: ``embeds`` (T, D) and, by layer, keys and values (heads, T, d)."""

    embeds: Tensor
    layers: list[tuple[Tensor, Tensor]]

    @classmethod
    def of(cls, cache: Any, row: int, embeds: Tensor) -> Memory | None:
        """Of a row of a batch, whose last columns are ``embeds``; None where the cache also keeps
        something else."""
        layers = getattr(cache, "layers", ())
        if not layers or not all(isinstance(layer, GrowingLayer) for layer in layers):
            return None
        length = len(embeds)
        sides = [
            [states[row, :, -length:].clone() for states in layer.states()] for layer in layers
        ]
        return cls(embeds, [(keys, values) for keys, values in sides])

    def shared(self, prompt: Tensor) -> int:
        """How many of the first rows of ``prompt`` (T, D) were read, all but its last at most."""
        length = min(len(prompt) - 1, len(self.embeds))
        same = (prompt[:length] == self.embeds[:length]).all(-1)
        return int(same.long().cumprod(0).sum())


def resumed(memories: Sequence[Memory | None], prompts: Sequence[Tensor]) -> tuple[int, Any]:
    """How many of their last rows have to be read of all prompts, and a cache of what stands before
    them, on the right: (B, heads, P, d) a layer. None where all has to be read.

    The same number of rows for all: nothing but padding on the left then, which every model knows.
    """
    shared = [
        memory.shared(prompt) if memory else 0
        for memory, prompt in zip(memories, prompts, strict=True)
    ]
    new = max(len(prompt) - known for prompt, known in zip(prompts, shared, strict=True))
    known = [max(0, len(prompt) - new) for prompt in prompts]
    kept = [(row, length) for row, length in enumerate(known) if length]
    if not kept:
        return new, None
    cache = DynamicCache()
    first = memories[kept[0][0]]
    assert first is not None
    cache.layers = [
        GrowingLayer(*(_joined(memories, kept, len(prompts), layer, side) for side in (0, 1)))
        for layer in range(len(first.layers))
    ]
    return new, cache


def _joined(
    memories: Sequence[Memory | None],
    kept: Sequence[tuple[int, int]],
    rows: int,
    layer: int,
    side: int,
) -> Tensor:
    width = max(length for _, length in kept)
    parts = []
    for row, length in kept:
        memory = memories[row]
        assert memory is not None
        parts.append((row, memory.layers[layer][side][:, :length]))
    heads, _, size = parts[0][1].shape
    joined = parts[0][1].new_zeros(rows, heads, width, size)
    for row, states in parts:
        joined[row, :, width - states.shape[1] :] = states
    return joined
