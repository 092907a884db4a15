"""Mappers and heads learn on a small frozen model, and nothing else changes."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from fromage_weights.demo.corpus import training_scene
from fromage_weights.demo.describing import DESCRIBING, DescribingTraining, described
from fromage_weights.demo.features import FeatureBank, admitted, codes, unjudged
from fromage_weights.demo.grammar import Wish
from fromage_weights.demo.hardware import Hardware
from fromage_weights.demo.heads import HeadsRecipe, HeadTraining, StateBank, make_states, targets
from fromage_weights.demo.language_model import LanguageTraining
from fromage_weights.demo.language_recipe import LanguageRecipe
from fromage_weights.demo.mapping import (
    MapperTraining,
    MappingRecipe,
    contrast,
    fit_slots,
    slot_labels,
    start_ret,
    train_mappers,
    whitening,
)
from fromage_weights.demo.pipeline import export_language_model, new_model
from fromage_weights.demo.reader import Reader
from fromage_weights.demo.samples import Collator, caption_draft, random_draft
from fromage_weights.demo.splits import is_held_out
from fromage_weights.demo.vocabulary import train_tokenizer
from fromage_weights.demo.wordings import is_kept
from fromage_weights.demo.world import Scene
from fromage_weights.grounded import GroundedModel
from fromage_weights.language import input_embedding, weight_of

pytestmark = pytest.mark.usefixtures("uncompiled")

TINY = LanguageRecipe(hidden=160, layers=1, heads=2, context=256)
DIM = 192


@pytest.fixture(scope="module")
def bank() -> FeatureBank:
    """Pictures whose features are a random linear image of what they show, with noise."""
    rng = np.random.default_rng(0)
    scenes = [training_scene(rng, pairs=0.3) for _ in range(3000)]
    torch.manual_seed(0)
    facts = targets(codes(scenes))
    features = facts @ torch.randn(facts.shape[1], DIM) + 0.05 * torch.randn(len(scenes), DIM)
    return FeatureBank(scenes, features)


@pytest.fixture(scope="module")
def lm_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("lm")
    tokenizer = train_tokenizer(0)
    lm = LanguageTraining(TINY, tokenizer, directory / "none").lm
    export_language_model(lm, tokenizer, directory)
    return directory


@pytest.fixture
def model(lm_directory: Path) -> GroundedModel:
    return new_model(lm_directory, DIM, 0)


def test_matching_follows_what_is_said() -> None:
    wishes = codes([Wish(("dog",)), Wish(("dog",), None, "blue"), Wish(("cat", "dog"), 1)])
    scenes = codes(
        [Scene(("dog",), 1, "red"), Scene(("dog",), 2, "blue"), Scene(("dog", "cat"), 1, "red")]
    )
    assert admitted(wishes, scenes).tolist() == [
        [True, False, False],
        [False, True, False],
        [False, False, True],
    ]
    assert unjudged(wishes, scenes)[0].tolist() == [False, True, True]
    assert not unjudged(wishes, scenes)[1:].any()


def test_contrast_counts_every_match_and_skips_the_unjudged() -> None:
    wishes = codes([Wish(("dog",))])
    scenes = codes(
        [Scene(("dog",), 1, "red"), Scene(("dog",), 1, "blue"), Scene(("dog",), 2, "red")]
    )
    scores = torch.tensor([[0.0, 0.0, 50.0]])
    assert contrast(scores, wishes, scenes).item() == pytest.approx(0.0, abs=1e-6)
    others = torch.cat([scenes, codes([Scene(("cat",), 1, "red")])])
    wider = torch.tensor([[0.0, 0.0, 50.0, 0.0]])
    assert contrast(wider, wishes, others).item() == pytest.approx(np.log(3 / 2), abs=1e-5)


def test_whitening_gives_unit_covariance() -> None:
    torch.manual_seed(0)
    rows = torch.randn(4000, 8) @ torch.randn(8, 8) + 3
    mean, spread = whitening(rows, floor=0.0)
    white = (rows - mean) @ spread
    assert torch.allclose(white.T @ white / len(white), torch.eye(8), atol=1e-2)


def test_samples_mark_slots_and_rets(model: GroundedModel) -> None:
    rng = np.random.default_rng(2)
    collate = Collator(model.tokenizer)
    batch = collate([random_draft(rng, training_scene) for _ in range(200)])
    assert len(batch.slots) == len(batch.uploads) > 20
    assert len(batch.rets) == len(batch.wishes) > 20
    at = batch.ids[batch.rets[:, 0], batch.rets[:, 1]]
    assert (at == model.ret_token_id).all()
    assert (batch.weights[batch.rets[:, 0], batch.rets[:, 1]] == 1).all()
    row, start = batch.slots[0].tolist()
    words = model.tokenizer.decode(batch.ids[row, start : start + 4].tolist())
    assert batch.uploads[0].background in words
    assert batch.uploads[0].objects[0] in words


def test_texts_read_together_read_as_the_lm_reads_each(
    model: GroundedModel, bank: FeatureBank
) -> None:
    """Soft tokens and [RET] in their places."""
    rng = np.random.default_rng(7)
    batch = Collator(model.tokenizer)([random_draft(rng, training_scene) for _ in range(40)])
    features = bank.features[: len(batch.uploads)]
    start_ret(model, model.tokenizer)
    model.write_ret_row()
    embed = model.lm.get_input_embeddings()
    assert isinstance(embed, torch.nn.Module)
    with torch.no_grad():
        plain = Hardware(torch.device("cpu"), torch.float32)
        together = Reader(model, plain).hidden(batch, features)
        soft = model.mappers.soft_tokens(features)
        for row, length in enumerate(batch.mask.sum(1).tolist()):
            embeds = embed(batch.ids[row, :length])
            for tokens, (there, start) in zip(soft, batch.slots.tolist(), strict=True):
                if there == row:
                    embeds[start : start + len(tokens)] = tokens
            alone = model.lm.base_model(inputs_embeds=embeds[None], use_cache=False)[0][0]
            torch.testing.assert_close(together[row, :length], alone, rtol=1e-3, atol=1e-3)
            assert not together[row, length:].any()


@pytest.mark.slow
def test_compiled_they_are_read_the_same(model: GroundedModel, bank: FeatureBank) -> None:
    """With gradients, and without any."""
    rng = np.random.default_rng(8)
    batch = Collator(model.tokenizer)([random_draft(rng, training_scene) for _ in range(20)])
    features = bank.features[: len(batch.uploads)]
    layer = model.mappers.visual_embeddings
    gradients, states = [], []
    for stance in ("force_eager", "default"):
        hardware = Hardware.cpu()
        reader = Reader(model, hardware)
        with torch.compiler.set_stance(stance), hardware.autocast():
            model.mappers.zero_grad()
            hidden = reader.hidden(batch, features).float()
            weights = torch.randn(hidden.shape, generator=torch.Generator().manual_seed(0))
            (hidden * weights).sum().backward()  # type: ignore[no-untyped-call]
            assert layer.weight.grad is not None
            gradients.append(layer.weight.grad.clone())
            with torch.inference_mode():
                states.append(reader.hidden(batch, features).float())
    for plain, fast in (gradients, states):
        distance = (fast - plain).norm() / plain.norm()
        assert distance < 0.02


def test_matches_are_what_is_admitted(bank: FeatureBank) -> None:
    rng = np.random.default_rng(5)
    wishes = codes([_said(bank, rng) for _ in range(50)] + [Wish(("dog",)), Wish(("cat", "dog"))])
    for wish, right in zip(wishes.tolist(), admitted(wishes, bank.codes), strict=True):
        key = tuple(wish)
        assert (key in bank.matches) == bool(right.any())
        if right.any():
            assert right[[bank.matches.one(key, rng) for _ in range(5)]].all()


def test_soft_tokens_start_nearest_to_the_right_words(
    model: GroundedModel, bank: FeatureBank
) -> None:
    accuracy = fit_slots(model, bank, steps=150, seed=0, batch=512)
    assert min(accuracy) > 0.5
    soft = model.mappers.soft_tokens(bank.features[:300])
    table = weight_of(input_embedding(model.lm))
    grounds = [model.tokenizer.encode(" " + c)[0] for c in ("white", "gray", "red", "yellow")]
    grounds += [model.tokenizer.encode(" " + c)[0] for c in ("green", "blue", "purple", "pink")]
    nearest = (soft[:, 3] @ table[grounds].T.float()).argmax(1)
    assert (nearest == slot_labels(bank)[:300, 3]).float().mean() > 0.9


@pytest.mark.slow
def test_joint_training_learns_and_leaves_the_lm_alone(
    model: GroundedModel, bank: FeatureBank
) -> None:
    before = {name: value.clone() for name, value in model.lm.state_dict().items()}
    start_ret(model, model.tokenizer)
    recipe = replace(MappingRecipe(), steps=12, batch=16, candidates=64, warmup=1)
    logged = [numbers for _, numbers in MapperTraining(model, bank, recipe).run(log_every=4)]
    assert logged[-1]["text"] < logged[0]["text"]
    for name, value in model.lm.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_mappers_that_have_begun_are_not_begun_again(
    model: GroundedModel, bank: FeatureBank
) -> None:
    before = {name: value.clone() for name, value in model.mappers.state_dict().items()}
    recipe = MappingRecipe(probe_steps=2, steps=0)
    train_mappers(model, bank, recipe, begun=True)
    after = model.mappers.state_dict()
    assert all(torch.equal(value, before[name]) for name, value in after.items())
    train_mappers(model, bank, recipe)
    after = model.mappers.state_dict()
    begun = {name for name, value in after.items() if not torch.equal(value, before[name])}
    assert {"visual_embeddings.weight", "ret_embedding"} <= begun


@pytest.mark.slow
def test_describing_changes_the_soft_tokens_alone(model: GroundedModel, bank: FeatureBank) -> None:
    before = {name: value.clone() for name, value in model.mappers.state_dict().items()}
    recipe = replace(DESCRIBING, steps=12, batch=16, learning_rate=3e-3, warmup=1)
    training = DescribingTraining(model, bank, recipe)
    logged = [numbers for _, numbers in training.run(log_every=4)]
    assert logged[-1]["text"] < logged[0]["text"]
    assert all("match" not in numbers for numbers in logged)
    for name, value in model.mappers.state_dict().items():
        assert torch.equal(value, before[name]) != name.startswith("visual_embeddings"), name


def test_what_is_described_is_no_scene_that_is_kept(bank: FeatureBank) -> None:
    rng = np.random.default_rng(3)
    drafts = [described(rng, bank.any_scene) for _ in range(300)]
    assert {len(draft.uploads) for draft in drafts} == {1, 2}
    assert not any(is_held_out(scene) for draft in drafts for scene in draft.uploads)
    assert not any(draft.wishes for draft in drafts)
    assert not any(is_kept(draft.text) for draft in drafts)


def test_twos_are_described_most() -> None:
    rng = np.random.default_rng(5)
    drafts = [described(rng, lambda rng: training_scene(rng, pairs=0.45)) for _ in range(1500)]
    scenes = [scene for draft in drafts for scene in draft.uploads]
    counts = Counter("pair" if scene.is_pair else scene.count for scene in scenes)
    assert counts[2] > 1.1 * max(counts["pair"], counts[1], counts[3])
    assert min(counts.values()) > 0.1 * len(scenes)


def test_heads_find_the_right_picture(model: GroundedModel, bank: FeatureBank) -> None:
    rng = np.random.default_rng(4)
    wishes = [wish for _ in range(3000) for wish in caption_draft(_said(bank, rng), rng).wishes]
    torch.manual_seed(1)
    facts = targets(codes(wishes))
    states = StateBank(wishes, facts @ torch.randn(facts.shape[1], 160))
    recipe = HeadsRecipe(steps=40, batch=128, candidates=512)
    HeadTraining(model, bank, states, recipe).run()
    queries = model.mappers.query_embeddings(states.states[:200, None])
    images = model.mappers.image_embeddings(bank.features)
    best = (queries @ images.T).argmax(1)
    right = admitted(codes(wishes[:200]), bank.codes).gather(1, best[:, None])
    assert right.float().mean() > 0.8


def _said(bank: FeatureBank, rng: np.random.Generator) -> Wish:
    scene = bank.any_scene(rng)
    return Wish(scene.objects, scene.count, scene.background if rng.random() < 0.5 else None)


def test_states_are_read_at_ret(model: GroundedModel, bank: FeatureBank) -> None:
    found = make_states(model, bank, count=40, seed=0, batch=16)
    assert len(found.wishes) == len(found.states) >= 40
    assert found.states.shape[1] == 160
