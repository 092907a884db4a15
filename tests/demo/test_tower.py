"""The vision tower: its captions, its batches, its loss, and a few steps of training."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fromage_weights.demo import tower_batches, tower_text
from fromage_weights.demo.contrastive import contrastive_loss, full_view, part_views, spread_loss
from fromage_weights.demo.glyphs import sprite
from fromage_weights.demo.probe import ridge_readout
from fromage_weights.demo.scenes import blend, render
from fromage_weights.demo.splits import is_held_out
from fromage_weights.demo.sprites import LARGE, SpriteBank, shrink
from fromage_weights.demo.tower import CHECKPOINT_NAME, TowerRecipe, TowerRun, train_tower
from fromage_weights.demo.tower_model import IMAGE_SIZE, build_tower, load_tower, save_tower
from fromage_weights.demo.world import Scene
from fromage_weights.vision import VisionEncoder

pytestmark = pytest.mark.usefixtures("uncompiled")

TINY = TowerRecipe(images=32, batch_size=8, variants=1, checkpoint_every=2)


def test_every_caption_fits_the_vocabulary_and_the_context() -> None:
    captions = [
        *tower_text.OBJECT_CAPTIONS,
        *tower_text.PLURAL_CAPTIONS,
        *tower_text.LEFT_CAPTIONS,
        *tower_text.RIGHT_CAPTIONS,
        *tower_text.BACKGROUND_CAPTIONS,
        *tower_text.COUNT_CAPTIONS,
        tower_text.full_caption(Scene(("dog", "cat"), 1, "purple")),
    ]
    ids = tower_text.tokenize(captions)
    end = len(tower_text.vocabulary()) - 1
    assert (ids == end).sum(1).tolist() == [1] * len(captions)
    assert len({tuple(row) for row in ids.tolist()}) == len(set(captions)) == len(captions)


@pytest.mark.parametrize("size", [64, 200])
def test_batches_hold_no_held_out_scene(size: int) -> None:
    rng = np.random.default_rng(0)
    for _ in range(12):
        scenes = tower_batches.batch(size, rng)
        assert len(scenes) == size
        assert not any(map(is_held_out, scenes))


def test_hard_batches_differ_in_one_thing() -> None:
    rng = np.random.default_rng(0)
    objects = tower_batches.objects_only(100, rng)
    assert len({(scene.count, scene.background) for scene in objects}) == 1
    assert len({scene.objects for scene in objects}) == 100
    pairs = tower_batches.chained_pairs(64, rng)
    assert {scene.objects[::-1] for scene in pairs} == {scene.objects for scene in pairs}
    few = {scene.objects for scene in tower_batches.attributes_only(48, rng)}
    assert len(few) == 2


def test_pictures_match_the_captions_of_their_parts() -> None:
    scenes = [Scene(("dog", "cat"), 1, "red"), Scene(("owl",), 2, "blue")]
    matched = [
        {(row, captions[column]) for row, column in match.nonzero().tolist()}
        for _, captions, match in [
            *part_views(scenes, plural=False),
            full_view(scenes, background=True),
        ]
    ]
    assert matched == [
        {(0, "a dog"), (0, "a cat"), (1, "a owl")},
        {(0, "a dog on the left")},
        {(0, "a cat on the right")},
        {(0, "on red"), (1, "on blue")},
        {(0, "two different things"), (1, "two things")},
        {(0, "a dog and a cat on red"), (1, "two owls on blue")},
    ]


def test_swapped_pairs_are_negatives_of_the_whole() -> None:
    _, captions, match = full_view([Scene(("dog", "cat"), 1, "red")], background=False)
    assert captions == ("a dog and a cat", "a cat and a dog")
    assert match.tolist() == [[1, 0]]


def test_loss_falls_as_matches_stand_out() -> None:
    match = torch.eye(4)
    level, apart = contrastive_loss(torch.zeros(4, 4), match), contrastive_loss(20 * match, match)
    assert level.item() == pytest.approx(np.log(4))
    assert apart.item() < 1e-6


def test_spread_is_zero_at_right_angles_and_high_for_equal_captions() -> None:
    assert spread_loss(torch.eye(5)).item() == pytest.approx(0, abs=1e-6)
    assert spread_loss(torch.ones(5, 1)).item() == pytest.approx(10)


@pytest.mark.parametrize("squash", [False, True])
def test_blending_a_shrunken_sprite_equals_shrinking_the_picture(squash: bool) -> None:
    """What lets training compose its pictures at the tower's size."""
    colour = (244, 164, 190)
    thing = Image.fromarray(sprite("1F415", 120, 10.0), mode="RGBa")
    layer = Image.new("RGBa", (LARGE, LARGE))
    layer.paste(thing, (40, 60))
    alone = np.asarray(layer).astype(np.float32)
    large = np.multiply(colour, 1 - alone[..., 3:] / 255) + alone[..., :3]
    served = shrink(Image.fromarray(np.round(large).astype(np.uint8)), IMAGE_SIZE, squash=squash)
    composed = np.empty((IMAGE_SIZE, IMAGE_SIZE, 3), np.float32)
    composed[:] = colour
    blend(composed, shrink(layer, IMAGE_SIZE, squash=squash), IMAGE_SIZE / 2, IMAGE_SIZE / 2)
    gap = np.abs(composed - served)
    assert (composed != np.array(colour)).any()
    assert gap.max() < 32  # the cubic filter overshoots, and bytes cut that off
    assert gap.mean() < 0.5


@pytest.mark.slow
def test_training_resumes_to_the_same_weights(tmp_path: Path) -> None:
    lines: list[str] = []
    whole = train_tower(tmp_path / "whole", recipe=TINY, log=lines.append)
    (tmp_path / "cut").mkdir()
    run, half = TowerRun(TINY), SpriteBank(IMAGE_SIZE, variants=1, rng=np.random.default_rng(1))
    given = run.batches(half)
    losses = [float(run.train_step(next(given))) for _ in range(2)]
    run.save(tmp_path / "cut" / CHECKPOINT_NAME)
    cut = train_tower(tmp_path / "cut", recipe=TINY, log=lines.append)
    assert "goes on from step 2" in "".join(lines)
    assert all(np.isfinite(losses))
    once, twice = (load_tower(directory).state_dict() for directory in (whole, cut))
    assert all(torch.equal(once[name], twice[name]) for name in once)


def test_exported_tower_is_read_by_the_vision_encoder(tmp_path: Path) -> None:
    torch.manual_seed(0)
    save_tower(build_tower(), tmp_path)
    assert (tmp_path / "open_clip_model.safetensors").stat().st_size < 16 * 2**20
    encoder = VisionEncoder.load(str(tmp_path))
    assert (encoder.dim, encoder.image_size) == (1024, IMAGE_SIZE)
    tower = load_tower(tmp_path)
    image = Image.fromarray(render(Scene(("dog",), 1, "blue"), np.random.default_rng(0), LARGE))
    pixels = encoder.preprocess(image)[None]
    projected = encoder.encode(pixels) @ tower.get_parameter("visual.proj")
    torch.testing.assert_close(projected, tower.visual(pixels), rtol=1e-4, atol=1e-4)  # type: ignore[operator]


def test_ridge_reads_what_is_linear_and_not_what_is_noise() -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 5, (600,), generator=generator)
    noise = torch.randn(600, 16, generator=generator)
    features = torch.nn.functional.one_hot(labels, 16).float() * 8 + noise
    read = ridge_readout((features[:400], labels[:400]), (features[400:], labels[400:]), 5)
    blind = ridge_readout((noise[:400], labels[:400]), (noise[400:], labels[400:]), 5)
    assert read.accuracy > 0.95
    assert read.r2 > 0.8
    assert blind.r2 < 0.1
