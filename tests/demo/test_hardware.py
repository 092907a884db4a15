"""What other processes make ahead is what this one would have made; a GPU learns as a CPU does."""

import copy
import os
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import PreTrainedTokenizerFast

from fromage_weights.demo.corpus import training_scene
from fromage_weights.demo.describing import DESCRIBING, DescribingTraining
from fromage_weights.demo.features import FeatureBank, codes, make_features
from fromage_weights.demo.hardware import Hardware
from fromage_weights.demo.heads import HeadsRecipe, HeadTraining, make_states, targets
from fromage_weights.demo.language_model import LanguageTraining
from fromage_weights.demo.language_recipe import LanguageRecipe
from fromage_weights.demo.mapping import MapperTraining, MappingRecipe, fit_slots, start_ret
from fromage_weights.demo.pipeline import export_language_model, new_model
from fromage_weights.demo.sprites import SpriteBank
from fromage_weights.demo.stream import TextStream
from fromage_weights.demo.tower import TowerRecipe, TowerRun
from fromage_weights.demo.tower_model import IMAGE_SIZE, build_tower, save_tower
from fromage_weights.demo.vocabulary import train_tokenizer
from fromage_weights.vision import VisionEncoder

TINY = LanguageRecipe(
    hidden=160, layers=2, heads=2, context=256, steps=3, batch=4, length=48, long_steps=1,
    long_batch=2, warmup=2,
)  # fmt: skip
PLAIN = Hardware(torch.device("cpu"), torch.float32)
HELPED = Hardware(torch.device("cpu"), torch.float32, workers=2)
DIM = 96

pytestmark = pytest.mark.usefixtures("uncompiled")


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return train_tokenizer(0)


@pytest.fixture(scope="module")
def lm(tokenizer: PreTrainedTokenizerFast, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("lm")
    lm = LanguageTraining(TINY, tokenizer, directory / "none").lm
    export_language_model(lm, tokenizer, directory)
    return directory


@pytest.fixture(scope="module")
def bank() -> FeatureBank:
    rng = np.random.default_rng(0)
    scenes = [training_scene(rng, pairs=0.3) for _ in range(600)]
    facts = targets(codes(scenes))
    mixed = torch.randn(facts.shape[1], DIM, generator=torch.Generator().manual_seed(0))
    return FeatureBank(scenes, facts @ mixed)


@pytest.fixture(scope="module")
def sprites() -> SpriteBank:
    return SpriteBank(IMAGE_SIZE, variants=1, rng=np.random.default_rng(1))


def test_helpers_keep_the_order() -> None:
    made = HELPED.made(lambda number: (number, os.getpid()), 3, 40)
    numbers, makers = zip(*made, strict=True)
    assert numbers == tuple(range(3, 40))
    assert len(set(makers)) == 2
    assert os.getpid() not in makers
    assert list(PLAIN.made(lambda number: number, 3, 40)) == list(numbers)


def test_texts_made_by_helpers(tokenizer: PreTrainedTokenizerFast) -> None:
    streams = [
        TextStream(tokenizer, seed=3, batch=300, length=40, long=False, hardware=hardware)
        for hardware in (PLAIN, HELPED)
    ]
    for stream in streams:
        stream.seek(53)
    for _ in range(3):
        for mine, other in zip(*(stream.next() for stream in streams), strict=True):
            assert np.array_equal(mine, other)


@pytest.mark.slow
def test_pictures_drawn_by_helpers(sprites: SpriteBank) -> None:
    recipe = TowerRecipe(images=6 * 8, batch_size=8)
    runs = [islice(TowerRun(recipe, hardware).batches(sprites), 6) for hardware in (PLAIN, HELPED)]
    for mine, other in zip(*runs, strict=True):
        assert np.array_equal(mine.images, other.images)
        assert mine[1:] == other[1:]


def test_samples_prepared_by_helpers(lm: Path, bank: FeatureBank) -> None:
    model, recipe = new_model(lm, DIM, 0), MappingRecipe(steps=3, batch=4, candidates=16)
    for kind in (MapperTraining, DescribingTraining):
        ours, theirs = (kind(model, bank, recipe, hardware) for hardware in (PLAIN, HELPED))
        expected = [ours._prepared(step) for step in range(3)]
        found = theirs._hardware.made(theirs._prepared, 0, 3)
        for mine, other in zip(expected, found, strict=True):
            assert torch.equal(mine.batch.ids, other.batch.ids)
            assert mine.uploads == other.uploads
            assert np.array_equal(mine.candidates, other.candidates)


gpu = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device"),
]


@pytest.fixture
def both() -> tuple[Hardware, Hardware]:
    return PLAIN, Hardware(torch.device("cuda"), torch.float32, workers=2)


def _close(found: Any, expected: Any) -> None:
    torch.testing.assert_close(found, expected, rtol=2e-3, atol=2e-3, check_device=False)


class TestOnGpu:
    """In float32, each stage's first steps."""

    pytestmark = gpu

    def test_language(
        self, tokenizer: PreTrainedTokenizerFast, tmp_path: Path, both: tuple[Hardware, Hardware]
    ) -> None:
        def losses(hardware: Hardware) -> Iterator[float]:
            path = tmp_path / hardware.device.type
            path.mkdir()
            training = LanguageTraining(TINY, tokenizer, path, hardware=hardware)
            for _, loss in training.run(log_every=1, save_every=2):
                yield loss

        on_cpu, on_gpu = (list(losses(hardware)) for hardware in both)
        _close(on_gpu, on_cpu)

    def test_tower(self, sprites: SpriteBank, both: tuple[Hardware, Hardware]) -> None:
        recipe = TowerRecipe(images=4 * 16, batch_size=16)

        def losses(hardware: Hardware) -> list[float]:
            run = TowerRun(recipe, hardware)
            return [float(run.train_step(given)) for given in run.batches(sprites)]

        on_cpu, on_gpu = map(losses, both)
        _close(on_gpu, on_cpu)

    def test_features(self, tmp_path: Path, both: tuple[Hardware, Hardware]) -> None:
        save_tower(build_tower(), tmp_path)
        rng = np.random.default_rng(0)
        scenes = [training_scene(rng) for _ in range(300)]
        banks = [
            make_features(VisionEncoder.load(str(tmp_path)), scenes, seed=0, hardware=hardware)
            for hardware in both
        ]
        _close(banks[1].features, banks[0].features)

    def test_mappers_and_heads(
        self, lm: Path, bank: FeatureBank, both: tuple[Hardware, Hardware]
    ) -> None:
        recipe = MappingRecipe(steps=3, batch=6, candidates=32, warmup=1)
        describing = DESCRIBING.__class__(steps=2, batch=6, warmup=1)
        heads = HeadsRecipe(texts=60, steps=3, batch=16, candidates=64)
        begun = new_model(lm, DIM, 0)
        fit_slots(begun, bank, steps=20, seed=0, batch=64)
        start_ret(begun, begun.tokenizer)
        found = []
        for hardware in both:
            model = new_model(lm, DIM, 0, hardware.device)
            model.mappers.load_state_dict(copy.deepcopy(begun.mappers.state_dict()))
            joint = MapperTraining(model, bank, recipe, hardware).run(log_every=1)
            numbers = [told["text"] + told["match"] for _, told in joint]
            model.mappers.requires_grad_(False)
            described = DescribingTraining(model, bank, describing, hardware).run(log_every=1)
            numbers += [told["text"] for _, told in described]
            model.mappers.requires_grad_(False)
            model.write_ret_row()
            states = make_states(model, bank, count=60, seed=0, batch=16, hardware=hardware)
            training = HeadTraining(model, bank, states, heads, hardware)
            numbers += [float(training._loss().detach()) for _ in range(2)]
            training.run()
            found.append(numbers)
        _close(found[1], found[0])
