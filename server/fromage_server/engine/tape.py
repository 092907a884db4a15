"""Passes over single tokens on a CPU, written down once per batch size and then read off.

A decode step of a small model spends milliseconds in Python, between a layer's modules and in
transformers' wrappers around them. What a pass does with its tensors is always the same for one
batch size: it is traced once (``torch.fx``), and afterwards its operations are called one after
the other. They are the same operations, so all numbers are the same.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from fromage_server.engine.attention import ATTEND, Layout, Paged, Span, attend, recording
from fromage_server.engine.kv_cache import PagedCache
from fromage_weights.grounded import ForwardOutput, GroundedModel

log = logging.getLogger(__name__)
_PATIENCE = 10.0  # seconds of a start
Pass = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


class Tapes:
    """Of ``model``. What was not recorded runs through the model's own modules."""

    def __init__(self, model: GroundedModel) -> None:
        self._model = model
        self._passes: dict[int, Pass] = {}

    @property
    def sizes(self) -> list[int]:
        return list(self._passes)

    def record(self, paged: Paged, most: int, blocks: int) -> None:
        """For batches of one up to ``most`` tokens, or as far as a start may take; what is computed
        meanwhile is stored in the first ``blocks``, which must be nobody's yet."""
        if not _is_plain(self._model):
            return
        until = time.monotonic() + _PATIENCE
        for size in range(1, most + 1):
            spans = [Span(i, i + 1, 0, (i % blocks,)) for i in range(size)]
            layout = Layout.of(spans, self._model.device)
            with paged.step(layout) as cache, recording():
                traced = self._traced(size, cache)
            if traced is None or time.monotonic() > until:
                return
            self._passes[size] = _read_off(traced)

    def run(self, embedded: Tensor, positions: Tensor, cache: PagedCache) -> ForwardOutput:
        """(N, D) embedded tokens of N sequences at (N,) positions, with results for all."""
        take = self._passes.get(len(embedded)) or self._live(cache)
        return ForwardOutput(*take(embedded[None], positions[None]))

    def _live(self, cache: PagedCache) -> Pass:
        def take(embedded: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
            output = self._model.forward(embedded, position_ids=positions, past_key_values=cache)
            return output.logits, output.hidden

        return take

    def _traced(self, size: int, cache: PagedCache) -> Any:
        """A model that looks at its numbers while it computes (a rotary embedding may depend on
        the longest position) cannot be traced: None."""
        ids = torch.zeros(size, dtype=torch.long, device=self._model.device)
        try:
            return make_fx(self._live(cache))(self._model.embed_ids(ids)[None], ids[None])
        except Exception as error:
            log.info("decode steps run through the model's own modules: %s", error)
            return None


def _is_plain(model: GroundedModel) -> bool:
    """Quantized and divided weights are tensors with a life of their own."""
    tensors = (*model.lm.parameters(), *model.lm.buffers())
    return all(type(one) in (Tensor, torch.nn.Parameter) for one in tensors)


def _read_off(traced: Any) -> Pass:
    graph = traced.graph
    for number, node in enumerate(graph.nodes):
        if node.target is ATTEND:
            node.target = attend  # without a detour through torch's dispatcher
        elif node.target is torch.ops.aten.t.default and node.args[0].op == "get_attr":
            # A weight's transpose is the same view every time.
            name = f"transposed_{number}"
            setattr(traced, name, getattr(traced, node.args[0].target).t())
            with graph.inserting_before(node):
                node.replace_all_uses_with(graph.get_attr(name))
    graph.eliminate_dead_code()
    traced.recompile()
    found: Pass = traced.forward
    return found
