"""Greedy decoding of many prompts at once, as the server would do it one by one."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from fromage_weights.errors import UnsupportedModel
from fromage_weights.evaluation.memory import Memory, let_grow, resumed

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from fromage_weights.grounded import GroundedModel

# Finished rows are computed along with the others until this share of them is left.
_WORTH_KEEPING = 0.75


class Written(NamedTuple):
    """By the prompt's number: ``ids`` of every reply, the ``states`` (L, H) at [RET] of those that
    end in it, and where it is asked for what the model has then read."""

    ids: list[list[int]]
    states: dict[int, Tensor]
    memories: list[Memory | None]


class _Passed(NamedTuple):
    """Of one pass: (B, 1, V), (B, 1, L, H) where it is known, and what the next goes on from."""

    logits: Tensor
    hidden: Tensor | None
    cache: Any


# Of embeddings (B, T, D), mask (B, T so far), positions (B, T) and the cache of the pass before.
_Pass = Callable[[Tensor, Tensor, Tensor, Any], _Passed]


@torch.inference_mode()
def greedy(
    lm: PreTrainedModel, prompts: Sequence[Tensor], *, stop: Collection[int], max_tokens: int
) -> list[list[int]]:
    """Ids generated for each prompt embedding (T, D), its stop token included if it came.

    Prompts are padded on the left; positions count from each prompt's own start.
    """

    def forward(embeds: Tensor, mask: Tensor, positions: Tensor, cache: Any) -> _Passed:
        output = lm(
            inputs_embeds=embeds,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        return _Passed(output.logits, None, _kept(lm, getattr(output, "past_key_values", None)))

    limits = [max_tokens] * len(prompts)
    return _written(forward, lm.get_input_embeddings(), prompts, stop, limits).ids


@torch.inference_mode()
def greedy_to_ret(
    model: GroundedModel,
    prompts: Sequence[Tensor],
    *,
    stop: Collection[int],
    max_tokens: int,
    memories: Sequence[Memory | None] = (),
    remember: bool = False,
) -> Written:
    """As ``greedy``, with [RET] one more stop, whose states are read from one pass more, and no
    further than the model reads.

    Where ``memories`` has what was read of a prompt before, only the rest of it is. With
    ``remember`` the same is kept of these.
    """

    def forward(embeds: Tensor, mask: Tensor, positions: Tensor, cache: Any) -> _Passed:
        output = model.forward(embeds, mask, positions, cache, logits_to_keep=1, use_cache=True)
        return _Passed(output.logits, output.hidden, _kept(model.lm, output.cache))

    ret = model.ret_token_id
    limits = [min(max_tokens, model.max_context - len(prompt)) for prompt in prompts]
    stops = {ret, *stop}
    return _written(forward, model.embed_ids, prompts, stops, limits, ret, memories, remember)


def _kept(lm: PreTrainedModel, cache: Any) -> Any:
    if cache is None:
        raise UnsupportedModel(f"{type(lm).__name__} keeps no keys and values to go on from")
    return let_grow(cache)


class _Replies:
    """The replies to a batch's prompts as they are written."""

    def __init__(
        self, stop: Collection[int], limits: Sequence[int], ret: int | None, count: int
    ) -> None:
        self._stop, self._limits, self._ret = stop, limits, ret
        self.ids: list[list[int]] = [[] for _ in range(count)]
        self.states: dict[int, Tensor] = {}

    def is_done(self, number: int) -> bool:
        reply = self.ids[number]
        if reply and reply[-1] == self._ret:
            return number in self.states
        return len(reply) >= self._limits[number] or (bool(reply) and reply[-1] in self._stop)

    def read(self, number: int) -> list[int]:
        """The ids that the model has read: all but the last, unless that is [RET]."""
        return self.ids[number] if number in self.states else self.ids[number][:-1]

    def take(self, number: int, token: int, hidden: Tensor | None) -> None:
        """What a pass says: the next token, or the states (L, H) at the [RET] it has read."""
        reply = self.ids[number]
        if reply and reply[-1] == self._ret:
            assert hidden is not None
            self.states[number] = hidden.clone()
        else:
            reply.append(token)


def _written(
    forward: _Pass,
    embed: Callable[[Tensor], Tensor],
    prompts: Sequence[Tensor],
    stop: Collection[int],
    limits: Sequence[int],
    ret: int | None = None,
    begun: Sequence[Memory | None] = (),
    remember: bool = False,
) -> Written:
    new, cache = resumed(begun or [None] * len(prompts), prompts)
    embeds, mask = pad_left(prompts)
    positions = (mask.cumsum(1) - 1).clamp(min=0)[:, -new:]
    embeds = embeds[:, -new:]
    replies = _Replies(stop, limits, ret, len(prompts))
    memories: list[Memory | None] = [None] * len(prompts)
    rows = list(range(len(prompts)))  # which prompt each row of the batch belongs to

    while True:
        logits, hidden, cache = forward(embeds, mask, positions, cache)
        for place, (row, token) in enumerate(
            zip(rows, logits[:, -1].argmax(-1).tolist(), strict=True)
        ):
            if replies.is_done(row):
                continue
            replies.take(row, token, None if hidden is None else hidden[place, -1])
            if remember and replies.is_done(row):
                said = embed(torch.tensor(replies.read(row), device=embeds.device).long())
                memories[row] = Memory.of(cache, place, torch.cat([prompts[row], said]))
        going = [place for place, row in enumerate(rows) if not replies.is_done(row)]
        if not going:
            return Written(replies.ids, replies.states, memories)
        if len(going) < _WORTH_KEEPING * len(rows):
            kept = torch.tensor(going, device=embeds.device)
            cache.batch_select_indices(kept)
            mask, positions = mask[kept], positions[kept]
            rows = [rows[place] for place in going]
        # Those that are done go no further, lest they leave what the model can read.
        ahead = [[0 if replies.is_done(row) else 1] for row in rows]
        positions = positions[:, -1:] + torch.tensor(ahead, device=embeds.device)
        last = [replies.ids[row][-1] for row in rows]
        embeds = embed(torch.tensor(last, device=embeds.device))[:, None]
        mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)


def pad_left(prompts: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """(B, T, D) embeddings and their (B, T) mask."""
    longest = max(len(prompt) for prompt in prompts)
    embeds = prompts[0].new_zeros(len(prompts), longest, prompts[0].shape[-1])
    mask = torch.zeros(len(prompts), longest, dtype=torch.long, device=embeds.device)
    for i, prompt in enumerate(prompts):
        embeds[i, longest - len(prompt) :] = prompt
        mask[i, longest - len(prompt) :] = 1
    return embeds, mask
