"""What makes the language model able to read soft tokens later: while it learns, the words of an
upload's slot are noisy mixtures of embeddings, as a linear map from an image will make them."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from fromage_weights.demo.grammar import COLOURS, COUNT_WORDS, NAMES, PAIR_WORD, SLOT_LENGTH
from fromage_weights.demo.shapes import rounded_up
from fromage_weights.demo.vocabulary import SLOT_WORDS

_KINDS = {
    **dict.fromkeys(NAMES, 0),
    **dict.fromkeys((*COUNT_WORDS, PAIR_WORD), 1),
    **dict.fromkeys(COLOURS, 2),
}


def kinds() -> Tensor:
    """(W,): whether each of the slot words names a thing, a count or a colour."""
    return torch.tensor([_KINDS[word] for word in SLOT_WORDS])


class Disturbance(NamedTuple):
    """What K words become: which of the rows they are (K,), shares of the slot words' directions
    (K, W), what else is added (K, D), and a factor (K, 1)."""

    places: Tensor
    shares: Tensor
    haze: Tensor
    scales: Tensor

    def filled_up(self, room: int, spare: int) -> Disturbance:
        """To a multiple of `room`, at least one; what fills up goes to row `spare`."""
        missing = rounded_up(max(len(self.places), 1), room) - len(self.places)
        places = functional.pad(self.places, (0, missing), value=spare)
        return Disturbance(places, *(functional.pad(of, (0, 0, 0, missing)) for of in self[1:]))


class SlotNoise:
    """Stands noisy mixtures in the place of slot words.

    A word w becomes `scale * (E[w] + sum_c a_c D[c] + gaussian)`, D the slot words' own
    directions, with a_c ~ N(0, s^2) and s uniform up to `level` per slot: at 0.33 the cosine of
    what is left to D[w] is about 0.25. Part of the noise is common to an image's four slots, as a
    linear map's errors are.
    """

    def __init__(self, words: Tensor, level: float, generator: torch.Generator) -> None:
        kind = kinds()
        means = torch.stack([words[(kind == one).to(words.device)].mean(0) for one in range(3)])
        self._words = words - means[kind.to(words.device)]
        self.level, self._generator = level, generator

    def __call__(self, embeds: Tensor, slots: Tensor) -> Tensor:
        """`embeds` (B, T, D) with the rows where `slots` (B, T), on the CPU, replaced."""
        drawn = Disturbance(*(of.to(embeds.device) for of in self.drawn(slots)))
        return self.put(embeds.flatten(0, 1), drawn).view_as(embeds)

    def put(self, rows: Tensor, drawn: Disturbance) -> Tensor:
        """`rows` (N, D) with some replaced."""
        if len(drawn.places) == 0:
            return rows
        # Places, not a mask: a GPU would have to be waited for to count what that picks.
        noisy = rows[drawn.places] + drawn.shares @ self._words + drawn.haze
        return rows.index_copy(0, drawn.places, (drawn.scales * noisy).to(rows.dtype))

    def drawn(self, slots: Tensor) -> Disturbance:
        """For the rows where `slots` (B, T). The random numbers are the CPU's: they are the same
        for every device."""
        places = slots.flatten().nonzero()[:, 0]
        count, (size, width) = len(places), self._words.shape
        images = -(-count // SLOT_LENGTH)
        common = self._normal(images, size).repeat_interleave(SLOT_LENGTH, 0)[:count]
        mixed = 0.75 * common + 0.66 * self._normal(count, size)
        level = self.level * self._uniform(count, 1)
        level = level * (self._uniform(count, 1) > 0.1)
        scale = torch.exp(0.35 * self._normal(count, 1))
        haze = 0.5 * level * self._normal(count, width)
        return Disturbance(places, level * mixed, haze, scale)

    def _normal(self, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=self._generator)

    def _uniform(self, *shape: int) -> Tensor:
        return torch.rand(*shape, generator=self._generator)
