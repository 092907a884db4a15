"""Greedy tokens against transformers' own loop, for every family, alone and in a mixed batch."""

from functools import cache

import pytest
import torch

from fromage_server.engine import Engine, EngineConfig, GenerationRequest
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


@cache
def prompts_of(family: str, tied: bool) -> list[tuple[Segment, ...]]:
    model = grounded(family, tied)
    return [
        tuple(text(model, part) if isinstance(part, str) else image(part) for part in prompt)
        for prompt in PROMPTS
    ]


@cache
def expected_of(family: str, tied: bool) -> list[list[int]]:
    prompts = prompts_of(family, tied)
    with torch.inference_mode():
        return [
            generate(grounded(family, tied), prompt, length)
            for prompt, length in zip(prompts, LENGTHS, strict=True)
        ]


def requests_of(family: str, tied: bool) -> list[GenerationRequest]:
    pairs = zip(prompts_of(family, tied), LENGTHS, strict=True)
    return [reply(str(i), prompt, length) for i, (prompt, length) in enumerate(pairs)]


@EVERY_MODEL
def test_alone_and_in_a_mixed_batch(family: str, tied: bool) -> None:
    model, expected = grounded(family, tied), expected_of(family, tied)
    assert len({token for ids in expected for token in ids}) > 20, "too uniform to prove anything"
    requests = requests_of(family, tied)
    assert answer(Engine(model), requests[1]).ids == expected[1]
    together = answers(Engine(model, EngineConfig(max_batch=8)), requests)
    assert [heard.ids for heard in together] == expected


@EVERY_MODEL
def test_joining_at_different_times(family: str, tied: bool) -> None:
    """Five slots for eight requests: newcomers take the places of those that finished, a long
    prompt joins short ones, and the storage moves."""
    engine = Engine(grounded(family, tied), EngineConfig(max_batch=5, prefill_tokens=30))
    heard = answers(engine, requests_of(family, tied), steps_between=3)
    assert [h.ids for h in heard] == expected_of(family, tied)
    assert engine.stats().running == 0
