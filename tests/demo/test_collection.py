"""The demo collection's pictures."""

import io

import numpy as np
from PIL import Image

from fromage_weights.demo.classes import CLASSES
from fromage_weights.demo.collection import DEMO_SIZE, demo_items, demo_scenes, describe
from fromage_weights.demo.world import BACKGROUNDS, Scene


def test_every_object_is_there_alone_on_several_backgrounds_and_in_pairs() -> None:
    scenes = demo_scenes()
    assert len(set(scenes)) == len(scenes) == DEMO_SIZE
    for thing in CLASSES:
        own = [scene for scene in scenes if thing.name in scene.objects]
        singles = [scene for scene in own if not scene.is_pair]
        assert {scene.count for scene in singles} == {1, 2, 3}
        assert {scene.background for scene in singles} == set(BACKGROUNDS)
        assert {scene.objects.index(thing.name) for scene in own if scene.is_pair} == {0, 1}


def test_a_small_collection_still_has_every_object() -> None:
    scenes = demo_scenes(300)
    assert len(scenes) == 300
    assert {scene.objects[0] for scene in scenes if not scene.is_pair} == {c.name for c in CLASSES}


def test_items_are_complete_pictures_with_complete_metadata() -> None:
    items = list(demo_items(12))
    assert len({item.key for item in items}) == 12
    for item in items:
        assert item.key.endswith(".png")
        with Image.open(io.BytesIO(item.image)) as picture:
            picture.load()
            assert picture.format == "PNG"
            assert picture.mode == "RGB"
            assert min(picture.size) >= 224
        meta = item.metadata
        assert list(meta) == ["caption", "objects", "count", "background", "license", "attribution"]
        assert meta["license"] == "CC BY-SA 4.0"
        assert "OpenMoji" in str(meta["attribution"])
        assert isinstance(meta["objects"], list)
        caption = str(meta["caption"])
        assert str(meta["background"]) in caption
        assert meta["count"] != 1 or all(name in caption for name in meta["objects"])


def test_items_repeat_byte_for_byte_and_do_not_depend_on_their_number() -> None:
    few = list(demo_items(6))
    assert few == list(demo_items(6))
    by_key = {item.key: item for item in demo_items(12)}
    shared = [item for item in few if item.key in by_key]
    assert shared
    assert all(by_key[item.key] == item for item in shared)
    assert [item.image for item in demo_items(6, seed=1)] != [item.image for item in few]


def test_captions_are_grammatical() -> None:
    assert describe(Scene(("apple",), 1, "blue")) == "an apple on a blue background"
    assert describe(Scene(("snowman",), 3, "red")) == "three snowmen on a red background"
    assert describe(Scene(("dog", "owl"), 1, "gray")) == "a dog and an owl on a gray background"


def test_pictures_of_one_scene_fill_their_frame() -> None:
    item = next(demo_items(1))
    with Image.open(io.BytesIO(item.image)) as picture:
        pixels = np.asarray(picture).astype(int)
    assert (np.abs(pixels - pixels[0, 0]).sum(axis=2) > 60).mean() > 0.03
