"""The state at a caption's [RET], read by the frozen language model.

Only [RET]'s row is learnt there, so the words in front of it are read without gradients, and [RET]
from their cache; where a family's cache doesn't allow that, all in one pass.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import Tensor

from fromage_weights.errors import UnsupportedModel
from fromage_weights.language import input_embedding

if TYPE_CHECKING:
    from fromage_weights.grounded import GroundedModel

Read: TypeAlias = Callable[[Sequence[Tensor]], tuple[Tensor, Tensor]]
"""Captions' ids without [RET] -> (B, T, H) before the head, behind each of the words, and (B, L, H)
the states of the mapped layers at the [RET] that follows them."""


def reader(model: GroundedModel) -> Read:
    """The cheapest way this model allows. UnsupportedModel where there is none."""
    ways = _Ways(model)
    for read in (ways.apart, ways.in_one):
        if ways.agrees(read):
            return read
    raise UnsupportedModel(
        f"{type(model.lm).__name__}: what stands behind a caption changes how it is read; "
        "training takes causal language models"
    )


def ids_on(ids: Sequence[int], device: torch.device) -> Tensor:
    return torch.tensor(ids, dtype=torch.long, device=device)


class _Ways:
    """Two ways to read the same."""

    def __init__(self, model: GroundedModel) -> None:
        self._model, self._mappers = model, model.mappers
        self._lm: Any = model.lm
        self._embedding = input_embedding(model.lm)
        self._layers = _hidden_layers(model)

    def apart(self, words: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """The words without gradients, then [RET] from their cache."""
        from transformers import DynamicCache

        lengths = torch.tensor([len(own) for own in words], device=self._model.device)
        ids = torch.nn.utils.rnn.pad_sequence(list(words), batch_first=True)
        cache = DynamicCache(config=self._lm.config)
        with torch.no_grad():
            # Padding stands to the right of everything that is read: no mask is needed.
            hidden = self._lm.base_model(
                inputs_embeds=self._model.embed_ids(ids), past_key_values=cache, use_cache=True
            )[0]
        inside = torch.arange(ids.shape[1], device=ids.device) < lengths[:, None]
        seen = torch.cat([inside, torch.ones_like(inside[:, :1])], dim=1)
        output = self._lm.base_model(
            inputs_embeds=self._ret_input.expand(len(words), 1, -1),
            attention_mask=seen.long(),
            position_ids=lengths[:, None],
            past_key_values=cache,
            use_cache=True,
            output_hidden_states=any(layer is not None for layer in self._layers),
        )
        return hidden, self._states(output, torch.zeros_like(lengths))

    def in_one(self, words: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """All in one pass, which costs more: for families whose caches cannot leave padding
        out (ALiBi that goes by places in the cache, recurrent layers), or that have none."""
        rows = [torch.cat([self._model.embed_ids(own), self._ret_input]) for own in words]
        output = self._lm.base_model(
            inputs_embeds=torch.nn.utils.rnn.pad_sequence(rows, batch_first=True),
            use_cache=False,
            output_hidden_states=any(layer is not None for layer in self._layers),
        )
        lengths = torch.tensor([len(own) for own in words], device=self._model.device)
        return output[0], self._states(output, lengths)

    @property
    def _ret_input(self) -> Tensor:
        """(1, D): what the first layer gets for [RET]."""
        scale = getattr(self._embedding, "embed_scale", 1.0)
        return (self._mappers.ret_embedding * scale).to(self._model.dtype)

    def _states(self, output: Any, places: Tensor) -> Tensor:
        """(B, L, H) of the mapped layers, at one place of each row."""
        rows = torch.arange(len(places), device=places.device)
        layers = [output[0] if n is None else output.hidden_states[n] for n in self._layers]
        return torch.stack([layer[rows, places] for layer in layers], dim=1)

    @torch.no_grad()
    def agrees(self, read: Read) -> bool:
        """Whether a short and a long caption, together, are read as each of them alone."""
        device, known = self._model.device, self._model.ret_token_id
        words = [ids_on([(7 * i + 3) % known for i in range(n)], device) for n in (2, 13)]
        expected = torch.cat([self.in_one([own])[1] for own in words]).float()
        try:
            found = read(words)[1].float()
        except (AttributeError, RuntimeError, TypeError, ValueError):  # it has no cache, say
            return False
        tolerance = 1e-3 if self._model.dtype == torch.float32 else 3e-2
        apart = (found - expected).norm(dim=-1)
        return bool((apart <= tolerance * expected.norm(dim=-1)).all())


def _hidden_layers(model: GroundedModel) -> list[int | None]:
    """None for the head's input, as ``GroundedModel`` counts."""
    count = int(model.lm.config.get_text_config().num_hidden_layers)
    found = [layer % (count + 1) for layer in model.config.text_emb_layers]
    return [None if layer == count else layer for layer in found]
