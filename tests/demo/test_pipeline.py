"""`fromage demo train`: its stages, run to the end, broken off and gone on with."""

import json
import shutil
from dataclasses import replace
from functools import partialmethod
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import PreTrainedTokenizerFast

from fromage_weights.bundle import CONFIG_NAME, Bundle
from fromage_weights.demo import features, heads, oracle, pipeline, stream
from fromage_weights.demo.corpus import LESSONS, training_scene
from fromage_weights.demo.describing import train_describing
from fromage_weights.demo.features import FeatureBank, codes
from fromage_weights.demo.heads import HeadsRecipe, targets
from fromage_weights.demo.language_model import LanguageTraining, new_model
from fromage_weights.demo.language_recipe import LanguageRecipe
from fromage_weights.demo.mapping import MapperTraining, MappingRecipe, train_mappers
from fromage_weights.demo.pipeline import STAGES, Pipeline, Recipe, export_language_model
from fromage_weights.demo.results import RUN_NAME, identity
from fromage_weights.demo.scenes import render
from fromage_weights.demo.tower import TowerRecipe, TowerRun
from fromage_weights.demo.world import Scene
from fromage_weights.errors import TrainingInvalid
from fromage_weights.evaluation.responder import Message, Responder
from fromage_weights.language import load_language_model
from fromage_weights.loading import bundle_directory, load_grounded_model
from fromage_weights.mappers import FILE_NAME, Mappers
from tests.demo.breaking import BrokenOff, watch

pytestmark = pytest.mark.usefixtures("uncompiled", "small_chunks")

DOCUMENTS = 16  # of a chunk: a few steps read more than one
LANGUAGE = LanguageRecipe(
    hidden=160, layers=1, heads=2, context=256, steps=6, batch=4, length=48, long_steps=4,
    long_batch=2, warmup=2, noise_steps=1,
    first_chunk=1 + sum(lesson.texts for lesson in LESSONS) // DOCUMENTS,
)  # fmt: skip
MAPPERS = MappingRecipe(probe_steps=5, steps=5, batch=4, candidates=16, warmup=1)
TINY = Recipe(
    language=(LANGUAGE, replace(LANGUAGE, steps=3, long_steps=1, seed=1, kept=0.5)),
    mappers=MAPPERS,
    describing=replace(MAPPERS, steps=3, seed=7),
    heads=HeadsRecipe(texts=60, steps=3, batch=16, candidates=32),
    tower=TowerRecipe(images=32, batch_size=8, variants=1, checkpoint_every=2),
    pictures=300,
)
DIM = 96


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """And nothing that outlives a test: the allocator stays as it is."""
    monkeypatch.setattr(stream, "_DOCUMENTS_PER_CHUNK", DOCUMENTS)
    monkeypatch.setattr(pipeline, "keep_freed_memory", lambda: True)
    monkeypatch.setattr(oracle, "gate", lambda *_: [])


@pytest.fixture
def saved_often(monkeypatch: pytest.MonkeyPatch) -> None:
    for training in (LanguageTraining, MapperTraining):
        run = partialmethod(training.run, save_every=2)
        monkeypatch.setattr(training, "run", run)


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    """The one that ships."""
    made = PreTrainedTokenizerFast.from_pretrained(bundle_directory("demo") / "lm")
    assert isinstance(made, PreTrainedTokenizerFast)
    return made


@pytest.fixture(scope="module")
def lm(tokenizer: PreTrainedTokenizerFast, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("lm")
    export_language_model(new_model(LANGUAGE, tokenizer), tokenizer, directory)
    return directory


@pytest.fixture(scope="module")
def bank() -> FeatureBank:
    rng = np.random.default_rng(0)
    scenes = [training_scene(rng, pairs=0.3) for _ in range(600)]
    facts = targets(codes(scenes))
    mixed = torch.randn(facts.shape[1], DIM, generator=torch.Generator().manual_seed(0))
    return FeatureBank(scenes, facts @ mixed)


def _equal(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> bool:
    assert found.keys() == expected.keys()
    return all(torch.equal(value, expected[name]) for name, value in found.items())


class TestLanguage:
    @pytest.mark.parametrize("step", [4, 6, 10])
    def test_goes_on_to_the_same_weights(
        self, tokenizer: PreTrainedTokenizerFast, tmp_path: Path, step: int
    ) -> None:
        """From within a chunk of texts, between short and long blocks, and among long ones."""
        for name in ("whole", "cut"):
            (tmp_path / name).mkdir()
        expected = LanguageTraining(LANGUAGE, tokenizer, tmp_path / "whole")
        list(expected.run())
        with pytest.MonkeyPatch.context() as patch:
            watch(patch, LanguageTraining, "_given", step)
            with pytest.raises(BrokenOff):
                list(LanguageTraining(LANGUAGE, tokenizer, tmp_path / "cut").run(save_every=2))
        found = LanguageTraining(LANGUAGE, tokenizer, tmp_path / "cut")
        assert found.step == (step - 1) // 2 * 2
        list(found.run())
        assert _equal(found.lm.state_dict(), expected.lm.state_dict())

    def test_goes_on_from_an_older_checkpoint(
        self, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
    ) -> None:
        """Which does not say how many of a chunk's rows were read, nor what chance is next: it goes
        on with the next chunk."""
        steps = LanguageTraining(LANGUAGE, tokenizer, tmp_path).run(log_every=2, save_every=2)
        next(steps)
        state = torch.load(tmp_path / "lm.pt", weights_only=True)
        for name in ("read", "chances"):
            del state[name]
        torch.save(state, tmp_path / "lm.pt")
        again = LanguageTraining(LANGUAGE, tokenizer, tmp_path)
        assert again.step == 2
        assert [each.chunk for each in again._streams] == state["chunks"]
        assert [step for step, _ in again.run()][-1] == LANGUAGE.total


class TestMappers:
    @pytest.mark.usefixtures("saved_often")
    @pytest.mark.parametrize("step", [1, 4, 8])
    def test_go_on_to_the_same_weights(
        self, lm: Path, bank: FeatureBank, tmp_path: Path, step: int
    ) -> None:
        """Broken off before any checkpoint, in the joint stage, and while describing."""

        def train(directory: Path) -> dict[str, torch.Tensor]:
            model = pipeline.new_model(lm, DIM, 0)
            joint, described = directory / "joint.pt", directory / "describing.pt"
            train_mappers(model, bank, TINY.mappers, checkpoint=joint)
            train_describing(model, bank, TINY.describing, checkpoint=described)
            return model.mappers.state_dict()

        expected = train(tmp_path / "whole")
        with pytest.MonkeyPatch.context() as patch:
            watch(patch, MapperTraining, "_step", step)
            with pytest.raises(BrokenOff):
                train(tmp_path / "cut")
        with pytest.MonkeyPatch.context() as patch:
            steps = watch(patch, MapperTraining, "_step")
            found = train(tmp_path / "cut")
        # Saved at 2, 4 and 5 of the joint steps, 2 and 3 of the others.
        assert len(steps) == {1: 8, 4: 6, 8: 1}[step]
        assert _equal(found, expected)


class TestRun:
    def test_a_language_model_half_written_is_none(
        self, tokenizer: PreTrainedTokenizerFast, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Neither one of an earlier version nor one that broke off here."""
        tokenizer.save_pretrained(tmp_path / "lm-training" / "tokenizer")
        made = new_model(LANGUAGE, tokenizer)
        monkeypatch.setattr(pipeline, "train_language_model", lambda *_: made)
        (tmp_path / "lm").mkdir()
        (tmp_path / "lm" / "config.json").write_text("{}")
        with pytest.MonkeyPatch.context() as patch:
            watch(patch, PreTrainedTokenizerFast, "save_pretrained", 1, behind=True)
            with pytest.raises(BrokenOff):
                Pipeline(tmp_path, TINY).run(("language",))
        assert [path.name for path in (tmp_path / "lm").iterdir()] == ["config.json"]
        Pipeline(tmp_path, TINY).run(("language",))
        found = load_language_model(str(tmp_path / "lm"), torch.float32).state_dict()
        assert _equal(found, {name: value.float() for name, value in made.state_dict().items()})
        assert not (tmp_path / "lm.partial").exists()

    def test_another_recipe_is_refused(self, tmp_path: Path) -> None:
        Pipeline(tmp_path, TINY).run(())
        Pipeline(tmp_path, replace(TINY)).run(())
        for other, told in (
            (replace(TINY, pictures=9), r"\(recipe\.pictures 300, not 9\); name another --out"),
            (replace(TINY, language=(LANGUAGE,)), r"language\.1\.hidden 160, not None;.* more\)"),
            (replace(TINY, tower=TowerRecipe(seed=3)), r"recipe\.tower\.images 32, not"),
        ):
            with pytest.raises(TrainingInvalid, match=told):
                Pipeline(tmp_path, other).run(())
        (tmp_path / RUN_NAME).write_text("{")
        with pytest.raises(TrainingInvalid, match="not readable"):
            Pipeline(tmp_path, TINY).run(())

    def test_another_bundle_to_go_on_from_is_refused(self, tmp_path: Path) -> None:
        out, start = tmp_path / "out", bundle_directory("demo")
        Pipeline(out, TINY).run(())
        with pytest.raises(TrainingInvalid, match=r"\(from\.bundle None, not "):
            Pipeline(out, TINY, start=start).run(())
        (out / RUN_NAME).unlink()
        Pipeline(out, TINY, start=start).run(())
        Pipeline(out, TINY, start=_copy(start, tmp_path / "same")).run(())
        other = _copy(start, tmp_path / "other")
        told = json.loads((other / CONFIG_NAME).read_text())
        told["lm"]["hash"] = 64 * "0"
        (other / CONFIG_NAME).write_text(json.dumps(told))
        found = identity(other)
        assert found is not None
        assert found["bundle"] == Bundle.load(start).hash
        with pytest.raises(TrainingInvalid, match=r"\(from\.lm "):
            Pipeline(out, TINY, start=other).run(())

    def test_a_directory_of_an_earlier_version_is_gone_on_with(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (tmp_path / "features.safetensors").touch()
        Pipeline(tmp_path, TINY).run(("features",))
        assert "features.safetensors is there" in capsys.readouterr().out
        with pytest.raises(TrainingInvalid, match=RUN_NAME):
            Pipeline(tmp_path, replace(TINY, seed=5)).run(("features",))


def _copy(bundle: Path, directory: Path) -> Path:
    """What says which bundle it is."""
    directory.mkdir()
    for name in (CONFIG_NAME, FILE_NAME):
        shutil.copyfile(bundle / name, directory / name)
    return directory


@pytest.mark.slow
@pytest.mark.usefixtures("saved_often")
def test_all_stages_make_a_bundle_broken_off_or_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It answers; what was broken off in every stage is the same, byte by byte."""
    monkeypatch.setattr(features, "_VARIANTS", 1)
    expected = Pipeline(tmp_path / "whole", TINY)
    expected.run()
    _answers(expected.bundle)
    capsys.readouterr()
    expected.run()
    assert capsys.readouterr().out.count(" is there\n") == len(STAGES)

    shutil.copytree(
        expected.out / "lm-training" / "tokenizer", tmp_path / "cut" / "lm-training" / "tokenizer"
    )
    # In both legs, then in the tower, while features are made, in the joint stage and describing,
    # among the heads' steps; and wherever a result is written but not in its place yet.
    watch(monkeypatch, LanguageTraining, "_given", 4, 9, 17)
    watch(monkeypatch, pipeline, "export_language_model", 1, behind=True)
    watch(monkeypatch, TowerRun, "train_step", 4)
    watch(monkeypatch, features, "to_pixels", 2)
    watch(monkeypatch, MapperTraining, "_step", 4, 10)
    watch(monkeypatch, heads, "contrast", 2)
    watch(monkeypatch, Mappers, "save", 1, 3, behind=True)
    watch(monkeypatch, pipeline, "assemble", 1, behind=True)
    found = Pipeline(tmp_path / "cut", TINY)
    breaks = 0
    while True:
        try:
            found.run()
            break
        except BrokenOff:
            breaks += 1
    assert breaks == 12
    assert _files(found.bundle) == _files(expected.bundle)
    assert not list(found.out.glob("*.partial"))
    assert not (found.out / "mappers-training").exists()


def _files(directory: Path) -> dict[str, bytes]:
    found = [path for path in directory.rglob("*") if path.is_file()]
    return {str(path.relative_to(directory)): path.read_bytes() for path in found}


def _answers(bundle: Path) -> None:
    loaded = load_grounded_model(bundle, device="cpu", dtype="float32")
    assert loaded.vision is not None
    image = Image.fromarray(render(Scene(("dog",), 1, "blue"), np.random.default_rng(0), 240))
    (row,) = loaded.vision.encode(loaded.vision.preprocess(image, "squash")[None])
    asked = [[Message("user", "show me a dog")], [Message("user", "what is this?", row)]]
    replies = [reply for talk in Responder(loaded).talks(asked) for reply in talk]
    assert [bool(reply.text) or reply.query is not None for reply in replies] == [True, True]
