"""A GPU's decode step for one stream, with as few kernels as it can be.

What a model's modules ask torch to do for one token is written down once (``tape``) and then done
otherwise (``fewer_kernels``). What is not known there stays as it was, so that any model may come.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import torch
from torch import Tensor, nn

from fromage_server.engine.fewer_kernels import are_side_by_side, products_of, rewritten, siblings
from fromage_server.engine.kv_cache import PagedCache
from fromage_server.engine.opaque import recording
from fromage_server.engine.tape import Unrecordable, written
from fromage_weights.grounded import ForwardOutput, GroundedModel

log = logging.getLogger(__name__)


class OneRow:
    """``model.forward`` for one token of one sequence. The first call records it."""

    def __init__(self, model: GroundedModel) -> None:
        self._model = model
        self._take: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] | None = None
        self._is_plain = True

    def __call__(self, embedded: Tensor, positions: Tensor, cache: PagedCache) -> ForwardOutput:
        """(1, 1, D) and (1, 1)."""
        if self._take is None and self._is_plain:
            try:
                self._record(embedded, positions, cache)
            except (Unrecordable, RuntimeError) as error:
                log.info("one stream's steps run through the model's own modules: %s", error)
                self._is_plain = False
        if self._take is None:
            return self._forward(embedded, positions, cache)
        return ForwardOutput(*self._take(embedded, positions))

    def _forward(self, embedded: Tensor, positions: Tensor, cache: PagedCache) -> ForwardOutput:
        return self._model.forward(embedded, position_ids=positions, past_key_values=cache)

    def _record(self, embedded: Tensor, positions: Tensor, cache: PagedCache) -> None:
        """Twice: what the first recording shows to be multiplied by the same numbers is put side by
        side."""
        with recording():
            for parameters in self._siblings(embedded, positions, cache):
                put_side_by_side(parameters)
            with written((embedded, positions)) as tape:
                output = self._forward(embedded, positions, cache)
            self._take = tape.read_off((output.logits, output.hidden), rewritten)

    def _siblings(
        self, embedded: Tensor, positions: Tensor, cache: PagedCache
    ) -> list[list[nn.Parameter]]:
        """Weights, and biases, of the same numbers; those alone that nothing else looks into."""
        owners: dict[int, list[nn.Parameter]] = {}
        for _, parameter in self._model.lm.named_parameters(remove_duplicate=False):
            owners.setdefault(parameter.data_ptr(), []).append(parameter)
        with written((embedded, positions)) as tape:
            self._forward(embedded, positions, cache)
        found = []
        for together in siblings(tape, products_of(tape)):
            for kind in ([one.weight for one in together], [one.bias for one in together]):
                owning = [owners.get(one.data_ptr(), []) for one in kind if one is not None]
                if owning and all(len(parameters) == 1 for parameters in owning):
                    found.append([parameters[0] for parameters in owning])
        return found


@torch.no_grad()
def put_side_by_side(parameters: list[nn.Parameter]) -> None:
    """They become parts of one block, one behind the other."""
    if are_side_by_side([parameter.data for parameter in parameters]):
        return
    block = torch.cat([parameter.data for parameter in parameters])
    parts = torch.split(block, [len(parameter) for parameter in parameters])
    for parameter, part in zip(parameters, parts, strict=True):
        parameter.data = part
