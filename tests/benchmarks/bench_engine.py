"""The engine at several streams, against one request after another and transformers' `generate()`.

    python -m tests.benchmarks.bench_engine [--shape tiny|opt-125m] [--streams 8] [--rounds 5]

Every round runs all of them, so that a busy machine slows them alike; the table shows medians and
ratios. Weights are random, in float32.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from tokenizers import Tokenizer, models
from transformers import AutoModelForCausalLM, OPTConfig, PreTrainedTokenizerFast

from fromage_server.engine import (
    Engine,
    EngineConfig,
    FinishEvent,
    GenerationRequest,
    SamplingParams,
)
from fromage_weights.grounded import GroundedModel, ImageSegment, Segment, TextSegment
from fromage_weights.mappers import Mappers
from fromage_weights.tokenizer import FromageTokenizer

SHAPES: dict[str, dict[str, Any]] = {
    "tiny": {"hidden_size": 256, "ffn_dim": 1024, "num_hidden_layers": 4, "num_attention_heads": 4},
    "opt-125m": {
        "hidden_size": 768,
        "ffn_dim": 3072,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
    },
}
VOCABULARY = {"tiny": 4_000, "opt-125m": 50_272}
VISION_DIM = 64


def build(shape: str) -> GroundedModel:
    torch.manual_seed(0)
    words = {f"w{i}": i for i in range(VOCABULARY[shape] - 2)} | {"</s>": VOCABULARY[shape] - 2}
    hf = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=Tokenizer(models.WordLevel(words, "w0")), eos_token="</s>"
    )
    tokenizer = FromageTokenizer(hf)
    width = SHAPES[shape]["hidden_size"]
    config = OPTConfig(
        **SHAPES[shape],
        word_embed_proj_dim=width,
        vocab_size=len(tokenizer),
        max_position_embeddings=1024,
        init_std=0.1,
    )
    lm = AutoModelForCausalLM.from_config(config)  # type: ignore[no-untyped-call]
    return GroundedModel(lm, Mappers(VISION_DIM, width, width, 4, 32), tokenizer)


def prompts(model: GroundedModel, streams: int) -> list[tuple[Segment, ...]]:
    """Mixed lengths, 16 to 128 words, an image in every second one."""
    found: list[tuple[Segment, ...]] = []
    for i in range(streams):
        length = 16 + (i * 37) % 113
        ids = torch.randint(0, model.vocab_size - 2, (length,)).tolist()
        image = (ImageSegment(torch.randn(VISION_DIM)),) if i % 2 else ()
        found.append((*image, TextSegment(tuple(ids))))
    return found


def through_engine(
    model: GroundedModel, batch: Sequence[tuple[Segment, ...]], tokens: int, max_batch: int
) -> int:
    """Tokens generated; ``max_batch`` 1 runs one request after another."""
    engine = Engine(model, EngineConfig(max_batch=max_batch, max_queue=len(batch)))
    done: list[int] = []

    def listen(event: object) -> None:
        if isinstance(event, FinishEvent):
            done.append(event.usage.completion_tokens)

    for i, segments in enumerate(batch):
        params = SamplingParams(tokens, ignore_eos=True, max_num_rets=0)
        engine.submit(GenerationRequest(str(i), segments, params), listen)
    while engine.step():
        pass
    return sum(done)


def through_generate(
    model: GroundedModel, batch: Sequence[tuple[Segment, ...]], tokens: int
) -> int:
    lm: Any = model.lm
    total = 0
    for segments in batch:
        with torch.inference_mode():
            embedded = model.embed(segments)[None]
            mask = torch.ones(embedded.shape[:2], dtype=torch.long)
            ids = lm.generate(
                inputs_embeds=embedded,
                attention_mask=mask,
                min_new_tokens=tokens,
                max_new_tokens=tokens,
                do_sample=False,
                pad_token_id=1,
            )
        total += ids.shape[1]
    return total


def measure(runs: dict[str, Callable[[], int]], rounds: int) -> dict[str, float]:
    """Median tokens per second of each, after one round that is not counted."""
    speeds: dict[str, list[float]] = {name: [] for name in runs}
    for i in range(rounds + 1):
        for name, run in runs.items():
            start = time.perf_counter()
            tokens = run()
            if i:
                speeds[name].append(tokens / (time.perf_counter() - start))
    return {name: statistics.median(values) for name, values in speeds.items()}


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", choices=sorted(SHAPES), default="tiny")
    parser.add_argument("--streams", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args(argv)
    model = build(args.shape)
    batch = prompts(model, args.streams)
    together = f"engine, {args.streams} streams"
    speeds = measure(
        {
            "generate(), one after another": lambda: through_generate(model, batch, args.tokens),
            "engine, one after another": lambda: through_engine(model, batch, args.tokens, 1),
            together: lambda: through_engine(model, batch, args.tokens, args.streams),
        },
        args.rounds,
    )
    base = speeds["generate(), one after another"]
    print(f"{args.shape}, {args.tokens} tokens each, {torch.get_num_threads()} threads")
    for name, speed in speeds.items():
        print(f"{name:32} {speed:8.1f} tokens/s  {speed / base:5.2f}x generate()")


if __name__ == "__main__":
    main()
