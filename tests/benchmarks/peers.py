"""The others, each as its users run it."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from fromage_weights.grounded import GroundedModel, Segment, TextSegment
from tests.benchmarks.shapes import build


def reference_step(model: GroundedModel, length: int) -> None:
    """One token as the reference makes it: no cache, the whole sequence and all its logits."""
    lm: Any = model.lm
    shape = (1, length, model.mappers.embed_dim)
    embedded = torch.zeros(shape, dtype=model.dtype, device=model.device)
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


class ContinuousBatching:
    """transformers' own, greedy, in a process of its own: it computes in a thread, and what that
    leaves behind would slow the others down (OpenMP's helpers, see `workers`)."""

    def __init__(self, shape: str, dtype: torch.dtype, device: str = "cpu") -> None:
        self._here, there = multiprocessing.get_context("spawn").Pipe()
        self._process = multiprocessing.get_context("spawn").Process(
            target=_serve_batches, args=(there, shape, dtype, device), daemon=True
        )

    def __enter__(self) -> Self:
        self._process.start()
        assert self._here.recv() == "ready"
        return self

    def __exit__(self, *_: object) -> None:
        self._here.send(None)
        self._process.join(60)

    def run(self, prompts: Sequence[Sequence[Segment]], tokens: int) -> int:
        self._here.send(([ids_of(prompt) for prompt in prompts], tokens))
        return int(self._here.recv())


def _serve_batches(pipe: Any, shape: str, dtype: torch.dtype, device: str) -> None:
    """One manager for all tasks, sized for the first as `generate_batch` sizes its own: that makes
    one in every call, with its storage and its thread, which is not what is to be timed."""
    from transformers import GenerationConfig
    from transformers.generation.continuous_batching.utils import WorkloadHints

    lm: Any = build(shape, dtype, device).lm
    pipe.send("ready")
    if (task := pipe.recv()) is None:
        return
    config = GenerationConfig(  # type: ignore[no-untyped-call]
        do_sample=False, eos_token_id=-1, pad_token_id=1
    )
    hints = WorkloadHints(max(len(ids) for ids in task[0]), task[1], len(task[0]))
    with lm.continuous_batching_context_manager(config, workload_hints=hints) as manager:
        while task is not None:
            inputs, tokens = task
            manager.add_requests(inputs, max_new_tokens=tokens)
            found = [manager.get_result() for _ in inputs]
            assert all(output is not None and output.error is None for output in found)
            pipe.send(sum(len(output.generated_tokens) for output in found))
            task = pipe.recv()


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
