"""Whether memory grows with requests: each brings an image that nobody sent before.

    python -m tests.benchmarks.memory [--requests 10000]

The demo bundle, in this process: decoding, the vision tower, the feature cache, the engine with its
prefix cache.
"""

from __future__ import annotations

import argparse
import hashlib
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from fromage_server.engine import Engine, EngineConfig, GenerationRequest, SamplingParams
from fromage_server.engine.memory import spare_bytes
from fromage_server.engine.packing import pack_linears
from fromage_server.features import FeatureEncoder
from fromage_server.media import SourceImage
from fromage_server.workers import completed
from fromage_weights.cpu import keep_freed_blocks
from fromage_weights.grounded import TextSegment
from fromage_weights.loading import load_grounded_model
from tests.benchmarks.measure import Row, Table

_BATCH = 8


def resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096


def unique_image(rng: np.random.Generator) -> SourceImage:
    out = io.BytesIO()
    Image.fromarray(rng.integers(0, 256, (60, 60, 3), dtype=np.uint8)).save(out, "PNG")
    data = out.getvalue()
    return SourceImage(data, hashlib.sha256(data).hexdigest(), "image")


def measure(table: Table, requests: int) -> None:
    """Resident memory after all requests against after the first tenth."""
    loaded = load_grounded_model("demo", device="cpu")
    assert loaded.vision is not None
    pack_linears(loaded.model.lm, spare_bytes(loaded.model.device))
    keep_freed_blocks()
    encoder = FeatureEncoder(loaded.vision, loaded.bundle.config.prompt_image)
    engine = Engine(loaded.model, EngineConfig(max_batch=_BATCH, max_queue=_BATCH))
    tokens = TextSegment(loaded.model.tokenizer.encode(" What is this?"))
    rng = np.random.default_rng(0)
    early = 0
    for done in range(0, requests, _BATCH):
        for i in range(_BATCH):
            (image,) = completed(encoder.encode([unique_image(rng)]))
            request = GenerationRequest(str(done + i), (image, tokens), SamplingParams(8))
            engine.submit(request, lambda event: None)
        while engine.step():
            pass
        if done < requests // 10 <= done + _BATCH:
            early = resident_bytes()
    late = resident_bytes()
    engine.check_idle()
    detail = f"MiB: {early >> 20}, {late >> 20}"
    name = f"memory after {requests:,} requests with unique images, against {requests // 10:,}"
    table.add(Row(name, late / early, 1.02, below=True, detail=detail))


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=10_000)
    args = parser.parse_args(argv)
    table = Table("memory")
    measure(table, args.requests)


if __name__ == "__main__":
    main()
