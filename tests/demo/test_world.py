"""The demo's world: classes, scenes, splits and drawing."""

import hashlib

import numpy as np
import pytest

from fromage_weights.demo.classes import CLASSES
from fromage_weights.demo.scenes import MAX_ANGLE, place, render
from fromage_weights.demo.splits import is_held_out, split_of
from fromage_weights.demo.world import (
    BACKGROUNDS,
    MAX_COUNT,
    Scene,
    pair_scenes,
    random_scene,
    single_scenes,
)

FIRST_TRIED = ("dog", "cat", "apple", "car", "house", "guitar", "rocket", "snowman", "elephant")
SCENES = (
    Scene(("dog",), 1, "blue"),
    Scene(("apple",), 3, "pink"),
    Scene(("guitar", "rocket"), 1, "white"),
)


def test_there_are_enough_classes_with_plain_names() -> None:
    names = [thing.name for thing in CLASSES]
    assert 120 <= len(set(names)) == len(names) <= 140
    assert all(name.isalpha() and name.islower() for name in names)
    assert set(FIRST_TRIED) <= set(names)
    assert len({thing.codepoint for thing in CLASSES}) == len(CLASSES)
    wanted = {"animal", "food", "plant", "vehicle", "music", "sport", "household", "weather"}
    assert wanted | {"figure"} <= {thing.group for thing in CLASSES}


def test_plurals_are_told_from_names() -> None:
    assert all(thing.plural != thing.name for thing in CLASSES)


def test_about_a_tenth_is_held_out_and_every_class_is_trained_on() -> None:
    singles, pairs = list(single_scenes()), list(pair_scenes())[::11]
    assert len(singles) == len(CLASSES) * MAX_COUNT * len(BACKGROUNDS)
    for scenes in (singles, pairs):
        held_out = [scene for scene in scenes if is_held_out(scene)]
        assert 0.08 < len(held_out) / len(scenes) < 0.12
    trained = {scene.objects[0] for scene in singles if not is_held_out(scene)}
    assert trained == {thing.name for thing in CLASSES}


def test_validation_and_test_share_the_held_out_scenes() -> None:
    splits = [split_of(scene) for scene in single_scenes()]
    validation, test = splits.count("validation"), splits.count("test")
    assert validation + test == sum(is_held_out(scene) for scene in single_scenes())
    assert 0.3 < validation / (validation + test) < 0.7


def test_a_pair_is_held_out_both_ways_round_and_on_every_background() -> None:
    for scene in list(pair_scenes())[::997]:
        variants = [
            Scene(objects, 1, colour)
            for objects in (scene.objects, scene.objects[::-1])
            for colour in BACKGROUNDS
        ]
        assert len({split_of(variant) for variant in variants}) == 1


def test_the_split_is_the_one_the_shipped_weights_were_trained_with() -> None:
    held_out = [
        f"{s.objects[0]} {s.count} {s.background}" for s in single_scenes() if is_held_out(s)
    ]
    digest = hashlib.sha256("\n".join(held_out).encode()).hexdigest()
    assert digest.startswith("3564356dbf18b507")


def test_random_scenes_are_valid_and_repeatable() -> None:
    def draw() -> list[Scene]:
        rng = np.random.default_rng(3)
        return [random_scene(rng) for _ in range(300)]

    scenes = draw()
    assert scenes == draw()
    assert 90 < sum(scene.is_pair for scene in scenes) < 210
    for scene in scenes:
        assert len(set(scene.objects)) == len(scene.objects)
        assert scene.count == 1 if scene.is_pair else 1 <= scene.count <= MAX_COUNT


@pytest.mark.parametrize("scene", SCENES, ids=lambda scene: "-".join(scene.objects))
def test_things_stand_inside_the_picture_in_order(scene: Scene) -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        spots = place(scene, rng)
        assert len(spots) == len(scene.objects) * scene.count
        for spot in spots:
            reach = spot.extent / 2 - 1e-9
            assert reach <= spot.x <= 1 - reach
            assert reach <= spot.y <= 1 - reach
            assert abs(spot.angle) <= MAX_ANGLE
        if scene.is_pair:
            assert [spot.name for spot in spots] == list(scene.objects)
            assert spots[0].x < spots[1].x


def test_drawing_repeats_for_one_seed_and_varies_over_seeds() -> None:
    first, again, other = (render(SCENES[0], np.random.default_rng(seed), 96) for seed in (1, 1, 2))
    assert first.shape == (96, 96, 3)
    assert first.dtype == np.uint8
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


@pytest.mark.parametrize("colour", BACKGROUNDS)
def test_corners_show_the_background(colour: str) -> None:
    picture = render(Scene(("rocket",), 1, colour), np.random.default_rng(0), 96)
    nearest = min(
        BACKGROUNDS,
        key=lambda name: float(np.abs(np.subtract(BACKGROUNDS[name], picture[0, 0])).sum()),
    )
    assert nearest == colour


def test_more_things_cover_more_places() -> None:
    """Each thing of a pair is drawn on its own side."""
    picture = render(SCENES[2], np.random.default_rng(0), 96).astype(int)
    drawn = np.abs(picture - picture[0, 0]).sum(axis=2) > 60
    assert drawn[:, :44].any()
    assert drawn[:, 52:].any()
    assert not drawn[:, 47:49].all(axis=0).any()
