"""Greedy decoding of many prompts at once, as the server would do it one by one."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from fromage_weights.errors import UnsupportedModel

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from fromage_weights.grounded import GroundedModel

# Finished rows are computed along with the others until this share of them is left.
_WORTH_KEEPING = 0.75


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
    return _written(forward, lm.get_input_embeddings(), prompts, stop, limits)[0]


@torch.inference_mode()
def greedy_to_ret(
    model: GroundedModel, prompts: Sequence[Tensor], *, stop: Collection[int], max_tokens: int
) -> tuple[list[list[int]], dict[int, Tensor]]:
    """As ``greedy``, with [RET] one more stop, and no further than the model reads; and, by the
    prompt's number, the states (L, H) at [RET] of those whose reply ends in it, read from one pass
    more."""

    def forward(embeds: Tensor, mask: Tensor, positions: Tensor, cache: Any) -> _Passed:
        output = model.forward(embeds, mask, positions, cache, logits_to_keep=1, use_cache=True)
        return _Passed(output.logits, output.hidden, _kept(model.lm, output.cache))

    ret = model.ret_token_id
    limits = [min(max_tokens, model.max_context - len(prompt)) for prompt in prompts]
    return _written(forward, model.embed_ids, prompts, {ret, *stop}, limits, ret)


def _kept(lm: PreTrainedModel, cache: Any) -> Any:
    if cache is None:
        raise UnsupportedModel(f"{type(lm).__name__} keeps no keys and values to go on from")
    return cache


def _written(
    forward: _Pass,
    embed: Callable[[Tensor], Tensor],
    prompts: Sequence[Tensor],
    stop: Collection[int],
    limits: Sequence[int],
    ret: int | None = None,
) -> tuple[list[list[int]], dict[int, Tensor]]:
    embeds, mask = pad_left(prompts)
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    replies: list[list[int]] = [[] for _ in prompts]
    states: dict[int, Tensor] = {}
    rows = list(range(len(prompts)))  # which prompt each row of the batch belongs to
    cache = None

    def is_done(row: int) -> bool:
        reply = replies[row]
        if reply and reply[-1] == ret:
            return row in states
        return len(reply) >= limits[row] or (bool(reply) and reply[-1] in stop)

    while True:
        logits, hidden, cache = forward(embeds, mask, positions, cache)
        for place, (row, token) in enumerate(
            zip(rows, logits[:, -1].argmax(-1).tolist(), strict=True)
        ):
            if is_done(row):
                continue
            if replies[row] and replies[row][-1] == ret:
                assert hidden is not None
                states[row] = hidden[place, -1].clone()
            else:
                replies[row].append(token)
        going = [place for place, row in enumerate(rows) if not is_done(row)]
        if not going:
            return replies, states
        if len(going) < _WORTH_KEEPING * len(rows):
            kept = torch.tensor(going, device=embeds.device)
            cache.batch_select_indices(kept)
            mask, positions = mask[kept], positions[kept]
            rows = [rows[place] for place in going]
        # Those that are done go no further, lest they leave what the model can read.
        ahead = [[0 if is_done(row) else 1] for row in rows]
        positions = positions[:, -1:] + torch.tensor(ahead, device=embeds.device)
        last = [replies[row][-1] for row in rows]
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
