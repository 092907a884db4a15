"""Steps whose shapes are filled up learn what others learn; recorded ones too."""

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

from fromage_weights.demo.contrastive import contrastive_loss, views_of
from fromage_weights.demo.hardware import Hardware
from fromage_weights.demo.language_model import LanguageTraining
from fromage_weights.demo.language_recipe import LanguageRecipe
from fromage_weights.demo.replayed import Replayed, load_state, state_of
from fromage_weights.demo.slot_noise import SlotNoise
from fromage_weights.demo.sprites import SpriteBank
from fromage_weights.demo.stream import TextStream
from fromage_weights.demo.tower import (
    TowerRecipe,
    TowerRun,
    caption_ids,
    filled_loss,
    filled_match,
    step_loss,
)
from fromage_weights.demo.tower_model import IMAGE_SIZE, build_tower
from fromage_weights.demo.vocabulary import SLOT_WORDS, train_tokenizer
from fromage_weights.demo.world import Scene

# Past the lessons, where there are slots.
TINY = LanguageRecipe(
    hidden=160, layers=1, heads=2, context=96, steps=4, batch=4, length=64, long_steps=2,
    long_batch=2, warmup=2, first_chunk=40, noise_steps=1,
)  # fmt: skip
TOWER = TowerRecipe(images=4 * 8, batch_size=8, checkpoint_every=2)
PLAIN = Hardware(torch.device("cpu"), torch.float32)
FILLED = replace(PLAIN, replays=True)

pytestmark = pytest.mark.usefixtures("uncompiled")


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return train_tokenizer(0)


@pytest.fixture(scope="module")
def sprites() -> SpriteBank:
    return SpriteBank(IMAGE_SIZE, variants=1, rng=np.random.default_rng(1))


def test_on_a_cpu_it_is_the_function() -> None:
    step = Replayed(lambda a, b: a + b, torch.device("cpu"))
    assert step(torch.ones(2), torch.ones(2)).tolist() == [2, 2]
    assert step(torch.ones(3), torch.tensor(2.0)).tolist() == [3, 3, 3]
    assert step.recordings == 0


@pytest.mark.parametrize("count", [0, 4, 12, 16])
def test_disturbed_words_that_fill_up_change_nothing(count: int) -> None:
    words = torch.randn(len(SLOT_WORDS), 20, generator=torch.Generator().manual_seed(0))
    rows = torch.randn(30, 20, generator=torch.Generator().manual_seed(1))
    slots = torch.zeros(1, 30, dtype=torch.bool)
    slots[:, 5 : 5 + count] = True
    noise = SlotNoise(words, 0.3, torch.Generator().manual_seed(2))
    drawn = noise.drawn(slots)
    filled = drawn.filled_up(12, spare=30)
    assert len(filled.places) == {0: 12, 4: 12, 12: 12, 16: 24}[count]
    found = []
    for given, whole in ((drawn, rows), (filled, torch.cat((rows, torch.ones(1, 20))))):
        whole = whole.clone().requires_grad_()
        made = noise.put(whole, given)[:30]
        (made * rows.cos()).sum().backward()  # type: ignore[no-untyped-call]
        assert whole.grad is not None
        assert not whole.grad[30:].any()
        found.append((made, whole.grad[:30]))
    for plain, other in zip(*found, strict=True):
        torch.testing.assert_close(plain, other, rtol=1e-6, atol=1e-6)


def test_captions_that_are_not_told_are_no_part_of_the_loss() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = 10 * torch.randn(6, 9, generator=generator, dtype=torch.float64)
    match = (torch.rand(6, 9, generator=generator) > 0.7).double()
    match[2], match[:, 4] = 0, 0
    told = torch.tensor([True] * 9 + [False] * 3)
    results = []
    for scores, target, of in (
        (logits, match, None),
        (nn.functional.pad(logits, (0, 3), value=50.0), nn.functional.pad(match, (0, 3)), told),
    ):
        scores = scores.clone().requires_grad_()
        loss = contrastive_loss(scores, target, of)
        loss.backward()  # type: ignore[no-untyped-call]
        assert scores.grad is not None
        assert not scores.grad[:, 9:].any()
        results.append((loss.detach(), scores.grad[:, :9]))
    for plain, other in zip(*results, strict=True):
        torch.testing.assert_close(plain, other, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("coin", range(4))
def test_a_filled_batch_has_the_loss_and_the_gradients_of_its_captions(coin: int) -> None:
    torch.manual_seed(0)
    tower: Any = build_tower()
    scenes = [
        Scene(("dog", "cat"), 1, "red"),
        Scene(("owl",), 2, "blue"),
        Scene(("owl",), 2, "blue"),
    ]
    pixels, views = torch.randn(3, 3, IMAGE_SIZE, IMAGE_SIZE), views_of(scenes, coin=coin)

    def embed(tower: Any, pixels: Tensor, words: Tensor, last: Tensor) -> tuple[Tensor, Tensor]:
        text = words[torch.arange(len(words)), last] @ tower.visual.proj[: words.shape[-1]]
        return pixels.flatten(1)[:, :1024] @ tower.visual.proj.T @ tower.visual.proj, text

    found = []
    for loss in (
        step_loss(tower, embed, pixels, views),
        filled_loss(tower, embed, pixels, caption_ids(views, 3), filled_match(views)),
    ):
        learnt = [tower.visual.proj, tower.token_embedding.weight, tower.logit_scale]
        found.append((loss, *torch.autograd.grad(loss, learnt)))
    for plain, filled in zip(*found, strict=True):
        torch.testing.assert_close(filled, plain, rtol=1e-5, atol=1e-6)


def _language(
    tokenizer: PreTrainedTokenizerFast, directory: Path, hardware: Hardware, recipe: LanguageRecipe
) -> tuple[list[float], nn.Module]:
    directory.mkdir(exist_ok=True)
    training = LanguageTraining(recipe, tokenizer, directory, hardware=hardware)
    return [loss for _, loss in training.run(log_every=1, save_every=2)], training.lm


def _assert_alike(one: nn.Module, other: nn.Module) -> None:
    for mine, theirs in zip(one.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=2e-4)


@pytest.mark.slow
def test_a_language_model_learns_alike(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    """And of steps with slots, short and long ones, there are few shapes."""
    texts = TextStream(tokenizer, seed=0, batch=4, length=64, long=False)
    texts.seek(40)
    assert texts.next()[2].any()
    plain, expected = _language(tokenizer, tmp_path / "plain", PLAIN, TINY)
    filled, found = _language(tokenizer, tmp_path / "filled", FILLED, TINY)
    assert filled == pytest.approx(plain, rel=1e-4)
    _assert_alike(found, expected)
    training = LanguageTraining(TINY, tokenizer, tmp_path / "new", hardware=FILLED)
    shapes = {tuple(of.shape for of in training._given()) for _ in range(20)}
    assert len(shapes) <= 4  # two sizes of what is asked, two of what is disturbed


@pytest.mark.parametrize(("first", "then"), [(PLAIN, FILLED), (FILLED, PLAIN)])
def test_a_language_model_goes_on_the_other_way(
    tokenizer: PreTrainedTokenizerFast, tmp_path: Path, first: Hardware, then: Hardware
) -> None:
    """From a checkpoint, whose rates are numbers."""
    training = LanguageTraining(TINY, tokenizer, tmp_path, hardware=first)
    steps = training.run(log_every=1, save_every=2)
    for _ in range(2):
        next(steps)
    saved = torch.load(tmp_path / "lm.pt", weights_only=True)
    rates = [state["param_groups"][0]["lr"] for state in saved["optimizers"]]
    assert [type(rate) for rate in rates] == [float, float]
    again = LanguageTraining(TINY, tokenizer, tmp_path, hardware=then)
    adam = again._learn.optimizers[1]
    assert [group["capturable"] for group in adam.param_groups] == [then.replays]
    for mine, theirs in zip(again.lm.parameters(), training.lm.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=0)
    assert len(list(again.run(log_every=1))) == TINY.total - 2


@pytest.mark.slow
def test_a_tower_learns_alike(sprites: SpriteBank, tmp_path: Path) -> None:
    """And goes on from a checkpoint of the other way."""
    path = tmp_path / "checkpoint.pt"
    runs = [TowerRun(TOWER, hardware) for hardware in (PLAIN, FILLED)]
    losses: list[list[float]] = [[], []]
    for own, run, other in zip(losses, runs, (FILLED, PLAIN), strict=True):
        for given in run.batches(sprites):
            own.append(float(run.train_step(given)))
            if run.step == 2:
                run.save(path)
        gone_on = TowerRun(TOWER, other)
        gone_on.restore(path)
        again = [float(gone_on.train_step(given)) for given in gone_on.batches(sprites)]
        assert again == pytest.approx(own[2:], rel=1e-3)
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)


def test_a_state_is_of_any_device() -> None:
    weight = nn.Parameter(torch.ones(3))
    recorded = torch.optim.AdamW([weight], torch.tensor(0.1), fused=True, capturable=True)
    weight.grad = torch.ones(3)
    recorded.step()
    state = state_of(recorded)
    assert state["param_groups"][0]["lr"] == pytest.approx(0.1)
    assert isinstance(state["param_groups"][0]["lr"], float)
    plain = torch.optim.AdamW([weight], 0.2, fused=True)
    load_state(plain, state)
    assert not plain.param_groups[0]["capturable"]
    plain.step()
    load_state(recorded, state_of(plain))
    assert recorded.param_groups[0]["capturable"]
    assert float(recorded.state[weight]["step"]) == 2


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
class TestOnGpu:
    """In float32: recorded, and as it stands on the device."""

    DEVICE = torch.device("cuda")
    EAGER = Hardware(DEVICE, torch.float32)
    RECORDED = Hardware(DEVICE, torch.float32, replays=True)

    @pytest.fixture(autouse=True)
    def _nothing_is_warned_of(self, caplog: pytest.LogCaptureFixture) -> Any:
        caplog.set_level(logging.WARNING)
        yield
        assert "not recorded" not in caplog.text

    def test_every_call_is_one_step(self) -> None:
        weight = torch.zeros(2, device=self.DEVICE)

        def add(given: Tensor) -> Tensor:
            weight.add_(given)
            return weight.sum()

        step = Replayed(add, self.DEVICE, record=True)
        sums = [step(torch.tensor([1.0, float(i)])) for i in range(8)]
        assert torch.stack(sums).tolist() == [i + 1 + i * (i + 1) / 2 for i in range(8)]
        step(torch.tensor(1.0))
        assert step.recordings == 1
        assert weight.tolist() == [9, 29]

    def test_what_cannot_be_recorded_goes_on(self, caplog: pytest.LogCaptureFixture) -> None:
        weight = torch.zeros((), device=self.DEVICE)

        def add(given: Tensor) -> Tensor:
            weight.add_(given)
            if torch.cuda.is_current_stream_capturing():
                raise RuntimeError("waits for the device")
            return weight.clone()

        step = Replayed(add, self.DEVICE, record=True)
        sums = [float(step(torch.tensor(1.0))) for _ in range(6)]
        assert sums == [1, 2, 3, 4, 5, 6]
        assert step.recordings == 0
        assert "not recorded" in caplog.text
        caplog.clear()

    def test_language(self, tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
        recipe = replace(TINY, steps=12, long_steps=6)
        ways = {"cpu": PLAIN, "eager": self.EAGER, "recorded": self.RECORDED}
        found = {
            name: _language(tokenizer, tmp_path / name, hardware, recipe)[0]
            for name, hardware in ways.items()
        }
        assert found["recorded"] == pytest.approx(found["eager"], rel=2e-3)
        assert found["recorded"] == pytest.approx(found["cpu"], rel=5e-3)
        again = LanguageTraining(recipe, tokenizer, tmp_path / "recorded", hardware=PLAIN)
        assert again.step == recipe.total

    def test_language_is_recorded(
        self, tokenizer: PreTrainedTokenizerFast, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        made: list[Replayed] = []
        replayed = Hardware.replayed

        def noted(hardware: Hardware, step: Any) -> Replayed:
            made.append(replayed(hardware, step))
            return made[-1]

        monkeypatch.setattr(Hardware, "replayed", noted)
        recipe = replace(TINY, steps=12, long_steps=6)
        _language(tokenizer, tmp_path / "recorded", self.RECORDED, recipe)
        assert made[0].recordings >= 2  # short and long ones

    def test_tower(self, sprites: SpriteBank) -> None:
        recipe = replace(TOWER, images=8 * 8)
        runs = [TowerRun(recipe, way) for way in (PLAIN, self.EAGER, self.RECORDED)]
        on_cpu, eager, recorded = (
            [float(run.train_step(given)) for given in run.batches(sprites)] for run in runs
        )
        assert recorded == pytest.approx(eager, rel=2e-3)
        assert recorded == pytest.approx(on_cpu, rel=5e-3)
        assert runs[2]._replayed.recordings == 1
