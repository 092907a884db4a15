"""The others, each as its users run it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from fromage_weights.grounded import GroundedModel, Segment, TextSegment


def reference_step(model: GroundedModel, length: int) -> None:
    """One token as the reference makes it: no cache, the whole sequence and all its logits."""
    lm: Any = model.lm
    embedded = torch.zeros(1, length, model.mappers.embed_dim, dtype=model.dtype)
    with torch.inference_mode():
        logits = lm(inputs_embeds=embedded, use_cache=False, output_hidden_states=True).logits
        logits[:, -1].argmax(-1)


def generate(model: GroundedModel, segments: Sequence[Segment], tokens: int) -> int:
    """transformers' own loop, greedy, with its cache."""
    lm: Any = model.lm
    with torch.inference_mode():
        embedded = model.embed(segments)[None]
        ids = lm.generate(
            inputs_embeds=embedded,
            attention_mask=torch.ones(embedded.shape[:2], dtype=torch.long, device=model.device),
            min_new_tokens=tokens,
            max_new_tokens=tokens,
            do_sample=False,
            pad_token_id=1,
        )
    return int(ids.shape[1])


def continuous_batching(
    model: GroundedModel, prompts: Sequence[Sequence[Segment]], tokens: Sequence[int]
) -> int:
    """transformers' `generate_batch`, greedy; it has one length for all, so the longest."""
    from transformers import GenerationConfig
    from transformers.generation.configuration_utils import ContinuousBatchingConfig

    lm: Any = model.lm
    before = lm.config._attn_implementation
    config = GenerationConfig(  # type: ignore[no-untyped-call]
        max_new_tokens=max(tokens), do_sample=False, eos_token_id=-1, pad_token_id=1
    )
    try:
        found = lm.generate_batch(
            inputs=[list(ids_of(prompt)) for prompt in prompts],
            generation_config=config,
            continuous_batching_config=ContinuousBatchingConfig(),
            progress_bar=False,
        )
    finally:
        lm.set_attn_implementation(before)
    return sum(len(output.generated_tokens) for output in found.values())


def ids_of(segments: Sequence[Segment]) -> list[int]:
    return [i for s in segments if isinstance(s, TextSegment) for i in s.token_ids]


class Floor:
    """A step's matrix products alone: every weight of the layers and the head, once."""

    def __init__(self, model: GroundedModel) -> None:
        lm: Any = model.lm
        head = lm.get_output_embeddings()
        embedding = lm.get_input_embeddings()
        self._weights: list[Tensor] = [
            _as_linear(module)
            for module in lm.modules()
            if _is_linear(module) and module is not embedding and module is not head
        ]
        self._weights.append(head.weight)

    def step(self, rows: int) -> None:
        with torch.inference_mode():
            for weight in self._weights:
                x = torch.zeros(rows, weight.shape[1], dtype=weight.dtype, device=weight.device)
                functional.linear(x, weight)

    def run(self, rows: int, steps: int) -> Callable[[], float]:
        def go() -> float:
            for _ in range(steps):
                self.step(rows)
            return rows * steps

        return go


def _is_linear(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D"


def _as_linear(module: Any) -> Tensor:
    weight: Tensor = module.weight
    return weight if isinstance(module, nn.Linear) else weight.T
