"""Greedy tokens against transformers' own loop, for every family, alone and in a mixed batch."""

import pytest
import torch
from fromage_server.engine import Engine, EngineConfig
from fromage_weights.grounded import Segment

from tests.server.engine.driving import answer, answers, reply
from tests.server.engine.tiny import FAMILIES, generate, grounded, image, text

EVERY_MODEL = pytest.mark.parametrize(
    ("family", "tied"),
    [(family, tied) for family in FAMILIES for tied in (True, False)],
    ids=lambda value: value if isinstance(value, str) else ("tied" if value else "untied"),
)
# Lengths from 1 to 60 positions: shorter and longer than the sliding windows of 8.
PROMPTS = (
    ("a",),
    ("A cat sits on the mat and looks at a bird that is far away.",),
    (1,),
    ("What is this? ", 2, " Answer:"),
    (3, "Q: how many?\nA:"),
    ("First ", 4, " then ", 5, " and last ", 6, " tell me the story of it."),
    ("Ünïcödé 象",),
    ("one two", 7),
)
LENGTHS = (30, 12, 25, 8, 20, 16, 28, 1)


def segments_of(family: str, tied: bool, prompt: tuple[str | int, ...]) -> tuple[Segment, ...]:
    model = grounded(family, tied)
    return tuple(text(model, part) if isinstance(part, str) else image(part) for part in prompt)


@EVERY_MODEL
def test_alone_and_in_a_mixed_batch(family: str, tied: bool) -> None:
    model = grounded(family, tied)
    prompts = [segments_of(family, tied, prompt) for prompt in PROMPTS]
    with torch.inference_mode():
        expected = [generate(model, p, n) for p, n in zip(prompts, LENGTHS, strict=True)]
    assert len({token for ids in expected for token in ids}) > 20, (
        "output too uniform to prove anything"
    )

    alone = answer(Engine(model), reply("alone", prompts[1], LENGTHS[1]))
    assert alone.ids == expected[1]

    requests = [reply(str(i), p, n) for i, (p, n) in enumerate(zip(prompts, LENGTHS, strict=True))]
    together = answers(Engine(model, EngineConfig(max_batch=8)), requests)
    assert [heard.ids for heard in together] == expected


@EVERY_MODEL
def test_joining_at_different_times(family: str, tied: bool) -> None:
    """Five slots for eight requests: newcomers take the places of those that finished, a long
    prompt joins short ones, and the storage moves."""
    model = grounded(family, tied)
    prompts = [segments_of(family, tied, prompt) for prompt in PROMPTS]
    with torch.inference_mode():
        expected = [generate(model, p, n) for p, n in zip(prompts, LENGTHS, strict=True)]
    requests = [reply(str(i), p, n) for i, (p, n) in enumerate(zip(prompts, LENGTHS, strict=True))]
    engine = Engine(model, EngineConfig(max_batch=5, prefill_tokens=30))
    heard = answers(engine, requests, steps_between=3)
    assert [h.ids for h in heard] == expected
    assert engine.stats().running == 0
