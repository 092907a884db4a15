"""Keys and values of all sequences, in blocks, behind transformers' ``Cache``.

A step's forward pass takes many sequences at once, packed one behind the other as (1, N, …), some
with one new token, some with a piece of their prompt. ``update`` hands the new keys and values on
unchanged; the attention function stores them and reads what the step's ``Layout`` says.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache

from fromage_server.engine.attention import Backend, Layout
from fromage_weights.errors import UnsupportedModel
from fromage_weights.sharding import kv_heads_of

_KINDS = {"full_attention", "sliding_attention"}


@dataclass(frozen=True)
class KVShape:
    """What one position costs: ``layers`` x 2 x ``heads`` x ``head_dim`` numbers of ``dtype``;
    where the model is divided, in this process."""

    layers: int
    heads: int
    head_dim: int
    dtype: torch.dtype

    @property
    def position_bytes(self) -> int:
        return self.layers * 2 * self.heads * self.head_dim * self.dtype.itemsize

    @classmethod
    def of(cls, lm: Any, dtype: torch.dtype, device_type: str) -> "KVShape":
        """From the configuration of a model that computes with ``dtype``; UnsupportedModel where a
        layer keeps something else than keys and values of its own.

        On a CPU they are kept in float32: torch's kernel answers a single query several times
        faster so than in 16 bits, the more keys the more."""
        config = lm.config.get_text_config()
        types = set(getattr(config, "layer_types", None) or ["full_attention"])
        if types - _KINDS or getattr(config, "kv_sharing_modes", None) is not None:
            raise UnsupportedModel(
                f"{type(lm).__name__} has layers without a key-value cache of their own "
                f"({', '.join(sorted(types - _KINDS)) or 'shared'}); the engine needs attention "
                "layers of the kinds: " + ", ".join(sorted(_KINDS))
            )
        if not getattr(lm, "_supports_attention_backend", False):
            raise UnsupportedModel(
                f"{type(lm).__name__} does not take its attention function from transformers' "
                "attention interface; the engine needs that to store keys and values in blocks"
            )
        if any(name.endswith("sinks") for name, _ in lm.named_parameters()):
            raise UnsupportedModel(
                f"{type(lm).__name__} has attention sinks (a learned weight beside each head's "
                "scores), which the engine's attention does not know"
            )
        heads = config.num_attention_heads
        return cls(
            layers=config.num_hidden_layers,
            heads=kv_heads_of(lm),
            head_dim=getattr(config, "head_dim", None) or config.hidden_size // heads,
            dtype=torch.float32 if device_type == "cpu" and dtype.itemsize < 4 else dtype,
        )


class PagedCache(Cache):
    """Storage for ``blocks`` blocks. ``layout`` is the step that runs at the moment."""

    def __init__(self, shape: KVShape, blocks: int, device: torch.device, backend: Backend) -> None:
        super().__init__(layers=[])
        storage = backend.allocate(shape, blocks, device)
        self.backend = backend
        self.layers_stored = list(storage.unbind(0))
        self.bytes = storage.nbytes
        self.layout = Layout.of((), device)
        self.only_stores = False

    @contextmanager
    def storing(self) -> Iterator[None]:
        """Within it a layer's attention stores keys and values and then raises BeyondKeys."""
        self.only_stores = True
        try:
            yield
        finally:
            self.only_stores = False

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: object, **kw: object
    ) -> tuple[Tensor, Tensor]:
        return key_states, value_states

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return 0  # positions are always given

    def get_mask_sizes(self, query_length: int, layer_idx: int) -> tuple[int, int]:
        return query_length, 0
