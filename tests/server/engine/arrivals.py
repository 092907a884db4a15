"""Requests that come and go at random, on an engine with little room."""

import random
from typing import Any

import torch

from fromage_server.engine import Engine, EngineConfig
from fromage_server.engine.attention import BLOCK_SIZE
from fromage_server.engine.kv_cache import KVShape
from fromage_weights.grounded import GroundedModel, Segment
from tests.server.engine.driving import Engines, Heard, drain, reply
from tests.server.engine.tiny import generate, image, text


def engine_of(
    engines: Engines, model: GroundedModel, blocks: int, *backend: Any, **options: Any
) -> Engine:
    """With so many blocks; ``options`` of its configuration."""
    block = BLOCK_SIZE * KVShape.of(model.lm, model.dtype, model.device.type).position_bytes
    return engines(model, EngineConfig(kv_cache_bytes=blocks * block, **options), *backend)


def whatever_comes(
    model: GroundedModel, engine: Engine, rng: random.Random, requests: int = 24
) -> None:
    """Prompts with common beginnings, images among them, each of which brings what ``generate()``
    gives, or the beginning of it where it was cancelled; nothing is left behind."""
    beginnings = [tuple(_anything(model, rng) for _ in range(2)) for _ in range(3)]
    heard: dict[str, Heard] = {}
    expected: dict[str, list[int]] = {}
    cancelled: set[str] = set()
    for i in range(requests):
        name = str(i)
        prompt = (*rng.choice(beginnings), _anything(model, rng))
        length = rng.randint(1, 40)
        with torch.inference_mode():
            expected[name] = generate(model, prompt, length)
        heard[name] = Heard()
        engine.submit(reply(name, prompt, length), heard[name])
        for _ in range(rng.choice((0, 0, 1, 3, 8))):
            engine.step()
        if rng.random() < 0.25:
            victim = str(rng.randint(0, i))
            engine.cancel(victim)
            cancelled.add(victim)
    drain(engine)
    for name, listener in heard.items():
        if listener.finish.reason == "cancelled":
            assert name in cancelled
            assert listener.ids == expected[name][: len(listener.ids)]
        else:
            assert listener.ids == expected[name]
    engine.check_idle()


def _anything(model: GroundedModel, rng: random.Random) -> Segment:
    if rng.random() < 0.3:
        return image(rng.randint(0, 3))
    letters = "".join(rng.choice("abc ") for _ in range(rng.randint(1, 20)))
    return text(model, letters)
