"""Rearranged weights compute the same."""

import copy

import pytest
import torch

from fromage_server.engine import Engine
from fromage_server.engine.packing import pack_linears
from fromage_weights.grounded import GroundedModel
from tests.server.engine.driving import answers
from tests.server.engine.test_equals_generate import EVERY_MODEL, expected_of, requests_of
from tests.server.engine.tiny import grounded


def packed(family: str, tied: bool) -> tuple[GroundedModel, int]:
    original = grounded(family, tied)
    lm = copy.deepcopy(original.lm)
    model = GroundedModel(lm, copy.deepcopy(original.mappers), original.tokenizer)
    return model, pack_linears(lm)


@EVERY_MODEL
def test_the_same_tokens(family: str, tied: bool) -> None:
    model, layers = packed(family, tied)
    assert layers > 3
    heard = answers(Engine(model), requests_of(family, tied), steps_between=2)
    assert [h.ids for h in heard] == expected_of(family, tied)


@pytest.mark.parametrize("tied", [True, False])
def test_only_embeddings_keep_their_weights(tied: bool) -> None:
    model, layers = packed("llama", tied)
    left = sum(p.numel() for n, p in model.lm.named_parameters() if "norm" not in n)
    assert left == model.vocab_size * 32
    assert layers == 3 * 7 + 1


def test_other_numbers_are_left_as_they_are() -> None:
    lm = copy.deepcopy(grounded("opt", tied=True).lm)
    assert pack_linears(torch.nn.Module.to(lm, torch.float64)) == 0
