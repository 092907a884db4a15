"""A frozen language model that reads soft tokens and whose [RET] states can be projected."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from fromage_weights.errors import UnsupportedModel
from fromage_weights.language import (
    context_length,
    eos_ids,
    freeze,
    input_embedding,
    is_tied,
    output_head,
    replaced_forward,
    resize_vocabulary,
    weight_of,
)

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from fromage_weights.mappers import Mappers
    from fromage_weights.tokenizer import FromageTokenizer


@dataclass(frozen=True)
class TextSegment:
    token_ids: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class ImageSegment:
    """One image of the prompt: ``features`` (vision_dim,) float32 is the tower's pooled output.
    It takes ``n_visual_tokens`` positions. ``key``, where it is known, stands for the features:
    equal keys, equal features."""

    features: Tensor
    key: bytes | None = None


Segment = TextSegment | ImageSegment


@dataclass
class ForwardOutput:
    """At the K kept positions: ``logits`` (B, K, V) float32, ``hidden`` (B, K, L, H), the states
    of the mappers' ``text_emb_layers``; ``last`` (B, K, H) is what the head has read, where that is
    known. ``cache`` is what the next pass goes on from, where one was asked for and is kept."""

    logits: Tensor
    hidden: Tensor
    last: Tensor | None = None
    cache: Any = None


@dataclass(frozen=True)
class GroundingConfig:
    vocab_size: int
    ret_token_id: int
    image_token_id: int | None
    eos_token_ids: tuple[int, ...]
    max_context: int
    n_visual_tokens: int
    text_emb_layers: tuple[int, ...]


class GroundedModel:
    """LM and mappers, ready to run.

    Building one changes ``lm`` in place: it is frozen, its vocabulary gets one row per token of
    the tokenizer, and the [RET] row goes into the input embedding (and into the head's, where
    that is not tied). ``lm.generate(inputs_embeds=…)`` therefore computes the same function.
    """

    def __init__(self, lm: PreTrainedModel, mappers: Mappers, tokenizer: FromageTokenizer) -> None:
        self.lm = freeze(lm)
        self.mappers = mappers.to(lm.device)
        self.tokenizer = tokenizer
        resize_vocabulary(lm, len(tokenizer))
        self._head = output_head(lm)
        self._embedding = input_embedding(lm)
        self._layers = _positive_layers(lm, mappers.text_emb_layers)
        self._check_dimensions()
        self.write_ret_row()
        self.config = GroundingConfig(
            vocab_size=len(tokenizer),
            ret_token_id=tokenizer.ret_token_id,
            image_token_id=tokenizer.image_token_id,
            eos_token_ids=eos_ids(lm, tokenizer.eos_token_id),
            max_context=context_length(lm.config),
            n_visual_tokens=mappers.n_visual_tokens,
            text_emb_layers=mappers.text_emb_layers,
        )

    @property
    def device(self) -> torch.device:
        return weight_of(self._embedding).device

    @property
    def dtype(self) -> torch.dtype:
        return weight_of(self._embedding).dtype

    @property
    def vocab_size(self) -> int:
        return self.config.vocab_size

    @property
    def ret_token_id(self) -> int:
        return self.config.ret_token_id

    @property
    def image_token_id(self) -> int | None:
        return self.config.image_token_id

    @property
    def eos_token_ids(self) -> tuple[int, ...]:
        return self.config.eos_token_ids

    @property
    def max_context(self) -> int:
        return self.config.max_context

    @property
    def n_visual_tokens(self) -> int:
        return self.config.n_visual_tokens

    @property
    def reads_inner_layers(self) -> bool:
        """Whether [RET] looks at more than what the head reads."""
        return any(layer is not None for layer in self._layers)

    def write_ret_row(self) -> None:
        """Copy the mappers' [RET] rows into the LM."""
        row = self.tokenizer.ret_token_id
        with torch.no_grad():
            weight_of(self._embedding)[row] = self.mappers.ret_embedding[0].to(self.dtype)
            if self.mappers.ret_head is not None:
                weight_of(self._head)[row] = self.mappers.ret_head[0].to(self.dtype)

    def embed_ids(self, ids: Tensor) -> Tensor:
        """(…) ids -> (…, D), with the scale that some families put on their embedding."""
        embedded: Tensor = self._embedding(sent(ids, self.device))
        return embedded

    def embed(self, segments: Sequence[Segment]) -> Tensor:
        """(T, D) prompt embeddings: ids looked up, images as their soft tokens."""
        rows = [self._embed_segment(segment) for segment in segments]
        if not rows:
            return torch.empty(0, self.mappers.embed_dim, device=self.device, dtype=self.dtype)
        return torch.cat(rows)

    def _embed_segment(self, segment: Segment) -> Tensor:
        if isinstance(segment, TextSegment):
            return self.embed_ids(torch.tensor(segment.token_ids, dtype=torch.long))
        features = sent(segment.features[None], self.device)
        return self.mappers.soft_tokens(features)[0].to(self.dtype)

    def forward(
        self,
        inputs_embeds: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Any = None,
        logits_to_keep: int | Tensor = 0,
        use_cache: bool = False,
        logits: bool = True,
    ) -> ForwardOutput:
        """One pass through the model's own forward, (B, T, D) in.

        ``past_key_values`` (a transformers Cache) is extended in place; without one, ``use_cache``
        has the model make its own. ``logits_to_keep``: the last n positions, 0 for all, or a (K,)
        tensor of positions. Where no ``logits`` are wanted the head is passed by, and they are
        (B, K, 0); not for a model that does something more to them.
        """
        passed_by = nullcontext() if logits else replaced_forward(self._head, _nothing)
        with _input_of(self._head) as caught, passed_by:
            output = self.lm(
                inputs_embeds=inputs_embeds,
                attention_mask=attention_mask,
                position_ids=position_ids,
                past_key_values=past_key_values,
                use_cache=use_cache or past_key_values is not None,
                logits_to_keep=logits_to_keep,
                output_hidden_states=self.reads_inner_layers,
            )
        states = [
            caught[-1] if layer is None else _keep(output.hidden_states[layer], logits_to_keep)
            for layer in self._layers
        ]
        last = caught[-1] if caught else None
        cache = getattr(output, "past_key_values", None)
        return ForwardOutput(output.logits.float(), torch.stack(states, dim=-2), last, cache)

    def _check_dimensions(self) -> None:
        found = {
            "embed_dim": weight_of(self._embedding).shape[1],
            "hidden_dim": weight_of(self._head).shape[1],
            "tied": is_tied(self.lm),
        }
        for name, value in found.items():
            expected = getattr(self.mappers, name)
            if value != expected:
                raise UnsupportedModel(
                    f"the mappers were made for a language model with {name}={expected}, "
                    f"{type(self.lm).__name__} has {name}={value}"
                )
        inner_dim = int(self.lm.config.get_text_config().hidden_size)
        if inner_dim != self.mappers.hidden_dim and any(i is not None for i in self._layers):
            raise UnsupportedModel(
                f"text_emb_layers is {self.mappers.text_emb_layers}: the inner layers of this "
                f"{type(self.lm).__name__} have {inner_dim} numbers, its head reads "
                f"{self.mappers.hidden_dim}; expected the last layer (-1) alone"
            )


def sent(tensor: Tensor, device: torch.device) -> Tensor:
    """``tensor`` on ``device``. To a GPU from memory that it reads by itself: a copy from any other
    makes the host wait until everything launched before is done."""
    if device.type == "cuda" and tensor.device.type == "cpu":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


def _positive_layers(lm: PreTrainedModel, layers: Sequence[int]) -> list[int | None]:
    """Indices into ``hidden_states``; None stands for the head's input (-1, or the last layer)."""
    count = int(lm.config.get_text_config().num_hidden_layers)
    chosen: list[int | None] = []
    for layer in layers:
        if not -count - 1 <= layer <= count:
            raise UnsupportedModel(
                f"text_emb_layers has {layer}; {type(lm).__name__} has layers "
                f"{-count - 1} to {count}"
            )
        index = layer % (count + 1)
        chosen.append(None if index == count else index)
    return chosen


def _keep(states: Tensor, logits_to_keep: int | Tensor) -> Tensor:
    if isinstance(logits_to_keep, int):
        return states[:, -logits_to_keep:]
    return states[:, logits_to_keep.to(states.device)]


def _nothing(states: Tensor) -> Tensor:
    return states.new_empty(*states.shape[:-1], 0)


@contextmanager
def _input_of(module: nn.Module) -> Iterator[list[Tensor]]:
    """In passes of this thread: another may make its own meanwhile."""
    caught: list[Tensor] = []
    mine = threading.get_ident()

    def catch(_: nn.Module, args: tuple[Tensor, ...]) -> None:
        if threading.get_ident() == mine:
            caught.append(args[0])

    handle = module.register_forward_pre_hook(catch)
    try:
        yield caught
    finally:
        handle.remove()
