"""One step of the language model's training, from numbers on the device to new weights."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from fromage_weights.demo.hardware import Hardware
from fromage_weights.demo.language_recipe import LanguageRecipe
from fromage_weights.demo.muon import BatchedMuon
from fromage_weights.demo.neox import Asked, mean_loss
from fromage_weights.demo.shapes import rounded_up
from fromage_weights.demo.slot_noise import Disturbance, SlotNoise
from fromage_weights.language import input_embedding

if TYPE_CHECKING:
    from transformers import GPTNeoXForCausalLM


class Given(NamedTuple):
    """A step's inputs: token ids (N,) and `positions` (B, T), N = B T, which of them are asked
    (as `Asked`), which are disturbed (as `Disturbance`), and each optimizer's rate. Filled up,
    there is one id more, whose row nobody reads."""

    ids: Tensor
    positions: Tensor
    places: Tensor
    targets: Tensor
    counts: Tensor
    slots: Tensor
    shares: Tensor
    haze: Tensor
    scales: Tensor
    rates: Tensor

    @classmethod
    def of(
        cls,
        ids: Tensor,
        positions: Tensor,
        asked: Asked,
        drawn: Disturbance,
        rates: list[float],
        *,
        fill_up: bool,
    ) -> Given:
        """`ids` (B, T). Filled up, few shapes are left: how many words are disturbed differs from
        step to step."""
        flat = ids.flatten()
        if fill_up:
            room = rounded_up(max(len(flat) // 16, 64), 64)
            flat, drawn = functional.pad(flat, (0, 1)), drawn.filled_up(room, len(flat))
        return cls(flat, positions, *asked, *drawn, torch.tensor(rates))


class LanguageStep:
    """Takes the inputs of `Given` on the model's device and returns the loss."""

    def __init__(
        self, lm: GPTNeoXForCausalLM, noise: SlotNoise, recipe: LanguageRecipe, hardware: Hardware
    ) -> None:
        self._lm, self._noise = lm, noise
        self.optimizers = _optimizers(lm, recipe, hardware)
        self._mean_loss = partial(hardware.compiled(mean_loss), dtype=hardware.dtype)
        self._rates_given = hardware.replays

    def set_rates(self, rates: list[float] | Tensor) -> None:
        for optimizer, rate in zip(self.optimizers, rates, strict=True):
            optimizer.param_groups[0]["lr"] = rate

    def __call__(self, *inputs: Tensor) -> Tensor:
        given = Given(*inputs)
        if self._rates_given:
            self.set_rates(given.rates)
        rows = self._noise.put(input_embedding(self._lm)(given.ids), Disturbance(*given[5:9]))
        places = given.positions.numel()
        embeds = (rows if len(rows) == places else rows[:places]).view(*given.positions.shape, -1)
        loss = self._mean_loss(self._lm, embeds, given.positions, Asked(*given[2:5]))
        self._lm.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self._lm.parameters(), 1.0)
        for optimizer in self.optimizers:
            optimizer.step()
        return loss.detach()


def _optimizers(
    lm: nn.Module, recipe: LanguageRecipe, hardware: Hardware
) -> tuple[torch.optim.Optimizer, torch.optim.Optimizer]:
    """Muon for the matrices between the embeddings and the head, AdamW for the rest."""
    named = list(lm.named_parameters())
    matrices = [p for n, p in named if p.ndim == 2 and "embed" not in n]
    others = [p for n, p in named if p.ndim != 2 or "embed" in n]
    muon = BatchedMuon(
        matrices, recipe.matrix_rate, 0.05, ns_steps=4, adjust_lr_fn="match_rms_adamw"
    )
    muon.products = hardware.dtype
    adam = torch.optim.AdamW(
        others,
        recipe.learning_rate,
        (0.9, 0.95),
        weight_decay=0.0,
        fused=True,
        capturable=hardware.replays,
    )
    return muon, adam
