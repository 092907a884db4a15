"""The model's forward passes: one prompt alone, or one step of the whole batch."""

from collections.abc import Sequence as Seq
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import DynamicCache

from fromage_server.engine.events import ScoreEvent
from fromage_server.engine.kv_cache import LayerStates, SlotCache
from fromage_server.engine.sequence import ScoringJob, Sequence
from fromage_weights.errors import UnsupportedModel
from fromage_weights.grounded import ForwardOutput, GroundedModel, Segment, TextSegment

_CACHEABLE = {"full_attention", "sliding_attention", "chunked_attention"}


@dataclass
class StepOutput:
    """``logits`` (V,) for the sequence's next token; ``queries`` (n, E) of the prompt's [RET]s or
    of the one just fed; ``states`` what a newcomer brings into the cache."""

    sequence: Sequence
    logits: Tensor
    queries: NDArray[np.float32]
    states: list[LayerStates] | None = None


class Runner:
    """Owns the KV cache. Where ``decode`` or ``join`` raises, the caller calls ``reset``.

    A prompt is prefilled on its own, so its numbers do not depend on other requests.
    """

    def __init__(self, model: GroundedModel, max_batch: int, max_context: int) -> None:
        _check_cacheable(model)
        self._model = model
        self._cache = SlotCache(max_batch, max_context)
        self._members: dict[str, Sequence] = {}

    @property
    def cache_bytes(self) -> int:
        return self._cache.allocated_bytes

    @property
    def batch(self) -> list[Sequence]:
        """The sequences that have a slot, in the order of their rows."""
        return [self._members[owner] for owner in self._cache.owners]

    def prefill(self, sequence: Sequence) -> StepOutput:
        positions = sequence.request.prompt_ret_positions
        last = sequence.prompt_tokens - 1
        # Without layer types from the config every layer keeps all states; a sliding layer's mask
        # hides what its window has left behind.
        cache = DynamicCache()
        output = self._forward_prompt(sequence.request.segments, (*positions, last), cache)
        return StepOutput(
            sequence,
            logits=output.logits[0, -1],
            queries=self._queries(output.hidden[0, :-1]),
            states=_states(cache),
        )

    def join(self, sequence: Sequence, states: Seq[LayerStates]) -> None:
        self._cache.join(sequence.id, states)
        self._members[sequence.id] = sequence

    def leave(self, sequence: Sequence, *, failed: bool = False) -> None:
        """Free the sequence's slot, if it has one."""
        if self._members.pop(sequence.id, None) is not None:
            self._cache.leave(sequence.id, wipe=failed)

    def decode(self) -> list[StepOutput]:
        """One token further: feeds the newest token of every sequence of the batch."""
        rows = self.batch
        output = self._forward_batch(rows)
        queries = self._fed_queries(rows, output.hidden[:, -1])
        return [
            StepOutput(sequence, logits=output.logits[i, -1], queries=queries[i])
            for i, sequence in enumerate(rows)
        ]

    def score(self, job: ScoringJob) -> ScoreEvent:
        request = job.request
        targets = _targets(request.segments, self._model.n_visual_tokens, request.score_from)
        if request.shifted:
            targets = [(position, token) for position, token in targets if position > 0]
        read_at = [position - request.shifted for position, _ in targets]
        output = self._forward_prompt(request.segments, (*read_at, *request.query_positions), None)
        queries = self._queries(output.hidden[0, len(read_at) :])
        tokens = torch.tensor([token for _, token in targets], dtype=torch.long)
        chosen = -torch.nn.functional.cross_entropy(
            output.logits[0, : len(read_at)], tokens.to(output.logits.device), reduction="none"
        )
        return ScoreEvent(
            positions=tuple(position for position, _ in targets),
            token_ids=tuple(tokens.tolist()),
            logprobs=tuple(chosen.tolist()),
            queries=queries,
        )

    def reset(self) -> None:
        """Drop all stored states: after a failed step they are not to be trusted."""
        self._cache.clear()
        self._members.clear()

    def check_device(self) -> None:
        """Raise where the device itself is lost, as after a failed CUDA kernel."""
        if self._model.device.type == "cuda":
            torch.cuda.synchronize(self._model.device)

    def _forward_prompt(
        self, segments: Seq[Segment], keep: Seq[int], cache: DynamicCache | None
    ) -> ForwardOutput:
        embedded = self._model.embed(segments)[None]  # (1, T, D)
        positions = torch.arange(embedded.shape[1], device=embedded.device)[None]
        return self._model.forward(
            embedded,
            position_ids=positions,
            past_key_values=cache,
            logits_to_keep=torch.tensor(keep, dtype=torch.long, device=embedded.device),
        )

    def _forward_batch(self, rows: Seq[Sequence]) -> ForwardOutput:
        device = self._model.device
        tokens = torch.tensor([[row.generated[-1]] for row in rows], device=device)
        positions = torch.tensor([[length] for length in self._cache.lengths], device=device)
        self._cache.prepare_step()
        output = self._model.forward(
            self._model.embed_ids(tokens),  # (n, 1, D)
            attention_mask=self._cache.padding_mask(device),
            position_ids=positions,
            past_key_values=self._cache,
            logits_to_keep=1,
        )
        self._cache.finish_step()
        return output

    def _fed_queries(self, rows: Seq[Sequence], hidden: Tensor) -> list[NDArray[np.float32]]:
        """Per row (1, E) where its token was a [RET], else (0, E)."""
        due = [i for i, row in enumerate(rows) if row.query_due]
        queries = self._queries(hidden[due])
        found = [queries[:0]] * len(rows)
        for place, i in enumerate(due):
            found[i] = queries[place : place + 1]
        return found

    def _queries(self, hidden: Tensor) -> NDArray[np.float32]:
        """(n, L, H) -> (n, E)."""
        if len(hidden) == 0:
            return np.empty((0, self._model.mappers.shared_dim), dtype=np.float32)
        queries: NDArray[np.float32] = self._model.mappers.query_embeddings(hidden).cpu().numpy()
        return queries


def _states(cache: DynamicCache) -> list[LayerStates]:
    layers: list[Any] = cache.layers
    return [(layer.keys[0], layer.values[0]) for layer in layers]


def _targets(
    segments: Seq[Segment], n_visual_tokens: int, score_from: int | None
) -> list[tuple[int, int]]:
    """(position, token id) of the text tokens at ``score_from`` and after it."""
    if score_from is None:
        return []
    found: list[tuple[int, int]] = []
    position = 0
    for segment in segments:
        if isinstance(segment, TextSegment):
            found.extend(enumerate(segment.token_ids, start=position))
            position += len(segment.token_ids)
        else:
            position += n_visual_tokens
    return [(place, token) for place, token in found if place >= score_from]


def _check_cacheable(model: GroundedModel) -> None:
    config = model.lm.config.get_text_config()
    types = set(getattr(config, "layer_types", None) or ["full_attention"])
    if types - _CACHEABLE or getattr(config, "kv_sharing_modes", None) is not None:
        raise UnsupportedModel(
            f"{type(model.lm).__name__} has layers without a key-value cache of their own "
            f"({', '.join(sorted(types - _CACHEABLE)) or 'shared'}); the engine needs attention "
            "layers of the kinds: " + ", ".join(sorted(_CACHEABLE))
        )
