"""Greedy decoding of many prompts at once, as the server would do it one by one."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fromage_weights.errors import UnsupportedModel

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# Finished rows are computed along with the others until this share of them is left.
_WORTH_KEEPING = 0.75


@torch.inference_mode()
def greedy(
    lm: PreTrainedModel, prompts: Sequence[Tensor], *, stop: Collection[int], max_tokens: int
) -> list[list[int]]:
    """Ids generated for each prompt embedding (T, D), its stop token included if it came.

    Prompts are padded on the left; positions count from each prompt's own start.
    """
    embeds, mask = pad_left(prompts)
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    replies: list[list[int]] = [[] for _ in prompts]
    rows = list(range(len(prompts)))  # which prompt each row of the batch belongs to
    cache, table = None, lm.get_input_embeddings()
    for _ in range(max_tokens):
        output = lm(
            inputs_embeds=embeds,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        cache = getattr(output, "past_key_values", None)
        if cache is None:
            raise UnsupportedModel(f"{type(lm).__name__} keeps no keys and values to go on from")
        chosen = output.logits[:, -1].argmax(-1)
        for row, token in zip(rows, chosen.tolist(), strict=True):
            if not replies[row] or replies[row][-1] not in stop:
                replies[row].append(token)
        positions = positions[:, -1:] + 1
        going = [i for i, row in enumerate(rows) if replies[row][-1] not in stop]
        if not going:
            break
        if len(going) < _WORTH_KEEPING * len(rows):
            kept = torch.tensor(going, device=embeds.device)
            cache.batch_select_indices(kept)
            chosen, mask, positions = chosen[kept], mask[kept], positions[kept]
            rows = [rows[i] for i in going]
        embeds = table(chosen)[:, None]
        mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
    return replies


def pad_left(prompts: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """(B, T, D) embeddings and their (B, T) mask."""
    longest = max(len(prompt) for prompt in prompts)
    embeds = prompts[0].new_zeros(len(prompts), longest, prompts[0].shape[-1])
    mask = torch.zeros(len(prompts), longest, dtype=torch.long, device=embeds.device)
    for i, prompt in enumerate(prompts):
        embeds[i, longest - len(prompt) :] = prompt
        mask[i, longest - len(prompt) :] = 1
    return embeds, mask
