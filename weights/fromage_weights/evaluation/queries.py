"""Query vectors of interleaved sequences that end in [RET], many at a time."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fromage_weights.errors import EvaluationDataInvalid
from fromage_weights.evaluation.decoding import pad_left
from fromage_weights.grounded import TextSegment

if TYPE_CHECKING:
    from fromage_weights.grounded import GroundedModel, Segment

_BATCH = 64


def check_length(model: GroundedModel, length: int, what: str = "an input") -> None:
    """Raises EvaluationDataInvalid for what the language model cannot read."""
    if length > model.max_context:
        raise EvaluationDataInvalid(
            f"{what} has {length:,} tokens; the language model reads {model.max_context:,}: "
            "shorten it in the file, or leave it out"
        )


@torch.inference_mode()
def query_embeddings(
    model: GroundedModel, prompts: Sequence[Sequence[Segment]], *, batch: int = _BATCH
) -> Tensor:
    """(N, shared_dim) on the CPU, unit norm: the mapped states at the last position of each
    prompt. Prompts of like length share a batch; no more than a batch is embedded at a time."""
    lengths = [sum(map(partial(_positions, model), prompt)) for prompt in prompts]
    for number, length in enumerate(lengths, start=1):
        check_length(model, length, f"number {number:,} of those asked")
    order = sorted(range(len(prompts)), key=lengths.__getitem__)
    found = torch.empty(len(prompts), model.mappers.shared_dim)
    for start in range(0, len(order), batch):
        part = order[start : start + batch]
        embeds, mask = pad_left([model.embed(prompts[i]) for i in part])
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        output = model.forward(embeds, mask, positions, logits_to_keep=1)
        found[part] = model.mappers.query_embeddings(output.hidden[:, -1]).float().cpu()
    return found


def _positions(model: GroundedModel, segment: Segment) -> int:
    if isinstance(segment, TextSegment):
        return len(segment.token_ids)
    return model.n_visual_tokens


def caption_queries(model: GroundedModel, texts: Sequence[str]) -> Tensor:
    """(N, shared_dim) of plain texts, [RET] right behind each (paper, section 3.2)."""
    tokenizer = model.tokenizer
    encoded = [tokenizer.encode_prompt([text + tokenizer.ret_token])[0] for text in texts]
    return query_embeddings(model, [[TextSegment(ids or ())] for ids in encoded])
