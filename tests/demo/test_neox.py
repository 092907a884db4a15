"""The loss written out is transformers' own, forwards and backwards; batches of Muon are Muon."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import GPTNeoXForCausalLM

from fromage_weights.cpu import training_dtype
from fromage_weights.demo.language_model import configuration
from fromage_weights.demo.language_recipe import LanguageRecipe
from fromage_weights.demo.muon import BatchedMuon, orthogonalized
from fromage_weights.demo.neox import Asked, losses, mean_loss
from fromage_weights.demo.shapes import compiled

_WORDS, _WIDTH = 60, 32


@pytest.fixture
def lm() -> GPTNeoXForCausalLM:
    torch.manual_seed(0)
    recipe = LanguageRecipe(hidden=_WIDTH, layers=3, heads=2, context=64)
    lm = GPTNeoXForCausalLM(configuration(recipe, _WORDS))
    with torch.no_grad():
        for param in lm.parameters():
            param.add_(0.1 * torch.randn_like(param))  # biases and norms, too
    return lm


def _documents() -> tuple[Tensor, Tensor]:
    """Ids (2, 24) of a long document and a short one a row, and positions in them."""
    ids = torch.randint(_WORDS, (2, 24), generator=torch.Generator().manual_seed(1))
    return ids, torch.cat((torch.arange(15), torch.arange(9))).expand(2, -1)


def _asked(ids: Tensor) -> Asked:
    places = torch.tensor([0, 3, 14, 15, 23, 24, 30, 41])
    counts = torch.tensor([1.0, 3.0, 1.0, 2.0, 1.0, 0.5, 1.0, 0.0])
    return Asked(places, ids.flatten()[(places + 5) % 48], counts)


def _library_losses(lm: GPTNeoXForCausalLM, ids: Tensor, asked: Asked) -> Tensor:
    """Every document alone, as transformers has it."""
    logits = torch.cat([lm(ids[:, :15]).logits, lm(ids[:, 15:]).logits], 1).flatten(0, 1)
    return functional.cross_entropy(logits[asked.places], asked.targets, reduction="none")


def _gradients(lm: GPTNeoXForCausalLM, loss: Tensor) -> dict[str, Tensor]:
    lm.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    return {name: p.grad.clone() for name, p in lm.named_parameters() if p.grad is not None}


def test_losses_and_gradients_are_the_librarys(lm: GPTNeoXForCausalLM) -> None:
    ids, positions = _documents()
    asked = _asked(ids)
    expected = _library_losses(lm, ids, asked)
    found = losses(lm, lm.gpt_neox.embed_in(ids), positions, asked, torch.float32)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    wanted, made = _gradients(lm, expected.sum()), _gradients(lm, found.sum())
    assert wanted.keys() == made.keys()
    for name in wanted:
        torch.testing.assert_close(made[name], wanted[name], rtol=1e-3, atol=1e-4, msg=name)


def test_a_count_of_zero_is_no_part_of_the_mean(lm: GPTNeoXForCausalLM) -> None:
    ids, positions = _documents()
    asked = _asked(ids)
    with torch.no_grad():
        embeds = lm.gpt_neox.embed_in(ids)
        whole = mean_loss(lm, embeds, positions, asked, torch.float32)
        fewer = Asked(*(part[:-1] for part in asked))
        without = mean_loss(lm, embeds, positions, fewer, torch.float32)
    torch.testing.assert_close(whole, without)


@pytest.mark.slow
def test_compiled_it_is_the_same(lm: GPTNeoXForCausalLM) -> None:
    ids, positions = _documents()
    asked = _asked(ids)
    embeds = lm.gpt_neox.embed_in(ids).detach()
    plain = mean_loss(lm, embeds, positions, asked, training_dtype())
    wanted = _gradients(lm, plain)
    fused = compiled(mean_loss)
    assert fused is not mean_loss
    fast = fused(lm, embeds, positions, asked, training_dtype())
    torch.testing.assert_close(fast, plain, rtol=2e-2, atol=2e-2)
    made = _gradients(lm, fast)
    for name in wanted:
        distance = (made[name] - wanted[name]).norm() / wanted[name].norm()
        assert distance < 0.05, name


def test_muon_in_batches_is_muon() -> None:
    torch.manual_seed(0)
    shapes = [(12, 8), (8, 8), (12, 8), (8, 20), (8, 20)]
    ours = [nn.Parameter(torch.randn(shape)) for shape in shapes]
    theirs = [nn.Parameter(p.detach().clone()) for p in ours]
    told: dict[str, Any] = {"weight_decay": 0.05, "ns_steps": 4, "adjust_lr_fn": "match_rms_adamw"}
    batched, library = BatchedMuon(ours, 4e-3, **told), torch.optim.Muon(theirs, 4e-3, **told)
    for _ in range(3):
        for mine, other in zip(ours, theirs, strict=True):
            mine.grad = torch.randn_like(mine)
            other.grad = mine.grad.clone()
        batched.step()
        library.step()  # type: ignore[no-untyped-call]
    for mine, other in zip(ours, theirs, strict=True):
        # bfloat16 sums may be ordered otherwise in a batch.
        torch.testing.assert_close(mine, other, rtol=0, atol=5e-5)
    assert batched.state_dict()["state"].keys() == library.state_dict()["state"].keys()


def test_a_rate_may_be_a_tensor() -> None:
    """As it is where a device must not be waited for."""
    torch.manual_seed(0)
    ours, theirs = ([nn.Parameter(torch.ones(12, 8)), nn.Parameter(torch.ones(8, 8))] for _ in "ab")
    told: dict[str, Any] = {"weight_decay": 0.05, "ns_steps": 4, "adjust_lr_fn": "match_rms_adamw"}
    plain, given = BatchedMuon(ours, 4e-3, **told), BatchedMuon(theirs, 4e-3, **told)
    for rate in (4e-3, 2e-3):
        plain.param_groups[0]["lr"], given.param_groups[0]["lr"] = rate, torch.tensor(rate)
        for mine, other in zip(ours, theirs, strict=True):
            mine.grad = torch.randn_like(mine)
            other.grad = mine.grad.clone()
        plain.step()
        given.step()
    for mine, other in zip(ours, theirs, strict=True):
        assert not torch.equal(mine, torch.ones_like(mine))
        torch.testing.assert_close(mine, other, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("shape", [(3, 12, 20), (3, 20, 12)], ids=["wide", "tall"])
def test_in_float32_muon_goes_the_same_way(shape: tuple[int, int, int]) -> None:
    updates = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    half, single, exact = (
        orthogonalized(updates, 4, (3.4445, -4.775, 2.0315), 1e-7, dtype)
        for dtype in (torch.bfloat16, torch.float32, torch.float64)
    )
    assert (half.dtype, single.dtype) == (torch.bfloat16, torch.float32)
    torch.testing.assert_close(single.double(), exact, rtol=0, atol=1e-5)
    torch.testing.assert_close(half.double(), exact, rtol=0, atol=2e-2)
