"""What only means something on a GPU: how near the engine comes to its memory and matrix units.

python -m tests.benchmarks.accelerator [--shape opt-6.7b] [--device cuda]
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fromage_server.engine.kv_cache import KVShape
from fromage_weights.grounded import GroundedModel, ImageSegment
from tests.benchmarks import peers
from tests.benchmarks.measure import Row, Table, median_ratio, rates
from tests.benchmarks.ours import Models, OurEngine, Prompts
from tests.benchmarks.shapes import SHAPES

STREAMS = 64
_PROMPT, _TOKENS = 512, 128
_TOWER = "ViT-L-14"


def measure(models: Models, table: Table, rounds: int) -> None:
    alone = against_memory(models, table, rounds)
    together(models, table, rounds, alone)
    first_token(models, table, rounds)


def against_memory(models: Models, table: Table, rounds: int) -> float:
    """One stream against reading every weight and the stream's keys and values once per token, as
    fast as the device copies. Returns the stream's tokens per second."""
    model = models.ours
    engine, prompts = OurEngine(model, 1), Prompts(model)
    weights = sum(p.numel() * p.element_size() for p in model.lm.parameters())
    states = KVShape.of(model.lm, model.dtype, model.device.type).position_bytes * (
        _PROMPT + _TOKENS // 2
    )
    speed = _copy_speed(model.device)
    found = [engine.decode([prompts.one(_PROMPT)], _TOKENS) for _ in range(rounds + 1)][1:]
    floor = speed / (weights + states)
    detail = (
        f"tokens/s: {statistics.median(found):.1f}, floor {floor:.1f} at {speed / 1e9:.0f} GB/s"
    )
    ratio = statistics.median(found) / floor
    table.add(Row("one stream, memory-bandwidth floor", ratio, 0.85, detail=detail))
    return statistics.median(found)


def together(models: Models, table: Table, rounds: int, alone: float) -> None:
    model = models.ours
    engine, prompts = OurEngine(model, STREAMS), Prompts(model)
    found = [engine.decode(prompts.mixed(STREAMS), _TOKENS) for _ in range(rounds + 1)][1:]
    speed = statistics.median(found)
    detail = f"tokens/s: {speed:.0f}, {alone:.1f}"
    table.add(Row(f"{STREAMS} streams, one stream", speed / alone, 30, detail=detail))
    tokens = [_TOKENS] * STREAMS
    with peers.ContinuousBatching(models.shape, models.dtype, str(model.device)) as batching:
        both = rates(
            {
                "engine": lambda: engine.run(prompts.mixed(STREAMS), tokens),
                "batching": lambda: batching.run(prompts.latest, _TOKENS),
            },
            rounds,
        )
    ratio = median_ratio(both["engine"], both["batching"])
    name = f"{STREAMS} streams, mixed lengths, transformers' continuous batching"
    table.add(Row(name, ratio, 1.5))


def first_token(models: Models, table: Table, rounds: int) -> None:
    """A prompt of 512 tokens and one picture, from its pixels on, against its multiplications at
    the rate at which the device multiplies large matrices."""
    import open_clip

    model, device = models.ours, models.ours.device
    tower = open_clip.create_model(_TOWER, device=str(device), precision="fp32").visual.eval()
    engine, prompts = OurEngine(model, 1), Prompts(model)
    pixels = torch.randn(1, 3, 224, 224, device=device)
    waits = []
    for _ in range(rounds + 1):
        start = time.perf_counter()
        with torch.inference_mode():
            features = tower(pixels)[0].cpu()
        image = ImageSegment(features[: model.mappers.vision_dim].clone())
        stream = engine.submit((image, *prompts.one(_PROMPT)), 1)
        engine.drain()
        waits.append(stream.times[0] - start)
    patches = 1 + (224 // 14) ** 2
    work = 2 * _prompt_products(model) / _rate(device, model.dtype)
    work += 2 * patches * sum(p.numel() for p in tower.parameters()) / _rate(device, torch.float32)
    wait = statistics.median(waits[1:])
    detail = f"ms: {1000 * wait:.1f}, {1000 * work:.1f}"
    name = f"first token of {_PROMPT} tokens and a picture, arithmetic floor"
    table.add(Row(name, wait / work, 2, below=True, detail=detail))


def _prompt_products(model: GroundedModel) -> int:
    """Products of a weight and a number: the layers' at every position, the head's at the last."""
    lm: Any = model.lm
    head = lm.get_output_embeddings().weight.numel()
    linears = sum(m.weight.numel() for m in lm.modules() if isinstance(m, nn.Linear))
    return int((_PROMPT + model.n_visual_tokens) * (linears - head) + head)


def _copy_speed(device: torch.device) -> float:
    """Bytes read and written per second."""
    size = 1 << (31 if device.type == "cuda" else 26)
    source = torch.empty(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * size / _seconds(device, lambda: target.copy_(source))


def _rate(device: torch.device, dtype: torch.dtype) -> float:
    """Multiplications and additions per second."""
    side = 8192 if device.type == "cuda" else 1024
    a = torch.randn(side, side, device=device).to(dtype)
    return 2 * side**3 / _seconds(device, lambda: a @ a)


def _seconds(device: torch.device, work: Callable[[], Tensor]) -> float:
    """The median of ten."""
    found = []
    for _ in range(12):
        start = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        found.append(time.perf_counter() - start)
    return statistics.median(found[2:])


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", choices=sorted(SHAPES), default="opt-6.7b")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="bfloat16")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args(argv)
    models = Models.of(args.shape, getattr(torch, args.dtype), args.device)
    table = Table(f"{args.shape}, {args.dtype}, {args.device}")
    measure(models, table, args.rounds)
    print(table.markdown())


if __name__ == "__main__":
    main()
