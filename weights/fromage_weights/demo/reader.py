"""Texts with soft tokens and [RET], read by the frozen language model while mappers learn."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional

from fromage_weights.demo.neox import states
from fromage_weights.demo.shapes import rounded_up
from fromage_weights.demo.stream import packed
from fromage_weights.language import input_embedding, output_head, weight_of

if TYPE_CHECKING:
    from transformers import GPTNeoXForCausalLM

    from fromage_weights.demo.hardware import Hardware
    from fromage_weights.demo.samples import Batch
    from fromage_weights.grounded import GroundedModel

# Texts are read in rows of so many tokens, so many rows at a time: one shape to compile.
_ROW, _ROWS = 256, 4


def filled_up(rows: Tensor, step: int) -> Tensor:
    """(N, D) and rows of zeros, up to a multiple of ``step``."""
    return functional.pad(rows, (0, 0, 0, rounded_up(len(rows), step) - len(rows)))


class Reader:
    """Runs batches through the frozen LM with the mappers' soft tokens and [RET] row in place. The
    model and all features are on the hardware's device, batches on the CPU."""

    def __init__(self, model: GroundedModel, hardware: Hardware) -> None:
        self.model, self._dtype, self._device = model, hardware.dtype, hardware.device
        lm: Any = model.lm
        self._lm: GPTNeoXForCausalLM = lm
        self._states = hardware.compiled(states)
        self._table = weight_of(input_embedding(model.lm)).detach()
        self._ret = model.ret_token_id

    def hidden(self, batch: Batch, features: Tensor) -> Tensor:
        """(B, T, H) states; `features` (U, Dv) of the batch's uploads."""
        ids = batch.ids.to(self._device)
        embeds = self._table[ids.clamp(min=0)]
        is_ret = (ids == self._ret)[..., None]
        embeds = torch.where(is_ret, self.model.mappers.ret_embedding[0], embeds)
        if len(features):
            soft = self.model.mappers.soft_tokens(filled_up(features, 16))[: len(features)]
            slots = batch.slots.to(self._device)
            where = slots[:, 1:] + torch.arange(soft.shape[1], device=self._device)
            soft = soft.flatten(0, 1)
            rows = slots[:, :1].expand_as(where)
            embeds = embeds.index_put((rows.flatten(), where.flatten()), soft.to(embeds.dtype))
        return self._read(embeds, batch.mask.sum(1).tolist())

    def _read(self, embeds: Tensor, lengths: list[int]) -> Tensor:
        """(B, T, H), zeros where a text has ended. Several texts stand in a row, so that little is
        read but text; a filled-up place is a text of its own."""
        count, width, _ = embeds.shape
        assert max(lengths, default=0) <= _ROW  # a longer one would lose its end
        places = [range(i * width, i * width + length) for i, length in enumerate(lengths)]
        rows = packed(places, _ROW)
        where = torch.full((rounded_up(len(rows), _ROWS), _ROW), -1)
        for i, row in enumerate(rows):
            where[i, : len(row)] = torch.tensor(row)
        texts = (where.flatten() >= 0).nonzero()[:, 0].to(self._device)
        where = where.to(self._device)
        positions = (where % width).where(where >= 0, 0)
        stood = embeds.flatten(0, 1).index_select(0, where.clamp(min=0).flatten())
        stood = stood.view(*where.shape, -1)
        parts = zip(torch.split(stood, _ROWS), torch.split(positions, _ROWS), strict=True)
        read = torch.cat([self._states(self._lm, *part, self._dtype) for part in parts])
        read = read.flatten(0, 1)
        out = read.new_zeros(count * width, read.shape[-1])
        out = out.index_copy(0, where.flatten()[texts], read.index_select(0, texts))
        return out.view(count, width, -1)

    def logits(self, hidden: Tensor) -> Tensor:
        """(N, H) -> (N, V), the [RET] column from the mappers."""
        weight = weight_of(output_head(self.model.lm)).detach()
        row = self.model.mappers.ret_head
        assert row is not None
        rows = torch.cat([weight[: self._ret], row.to(weight.dtype)])
        return hidden @ rows.T.to(hidden.dtype)
