"""The pictures that the demo shows: drawn on first start, the same on every machine."""

import io
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice

import numpy as np
from PIL import Image

from fromage_weights.demo.classes import CLASSES
from fromage_weights.demo.glyphs import ATTRIBUTION, LICENSE
from fromage_weights.demo.grammar import COUNT_WORDS, plural, with_article
from fromage_weights.demo.scenes import render
from fromage_weights.demo.sprites import LARGE
from fromage_weights.demo.world import BACKGROUNDS, MAX_COUNT, Scene

# Raise it when the same bundle should draw other pictures: caches go by it.
DEMO_VERSION = 1
DEMO_SIZE = 4_500
CONTENT_TYPE = "image/png"
_SINGLES_IN = (2, 3)  # two items of three show one kind of thing
_WORKERS = 2
_AHEAD = 64


@dataclass(frozen=True)
class DemoItem:
    """One picture: `key` is its file name, `image` its encoded bytes (PNG)."""

    key: str
    image: bytes
    metadata: dict[str, str | int | list[str]]


def describe(scene: Scene) -> str:
    """The plain caption that the metadata carries."""
    if scene.is_pair:
        things = " and ".join(with_article(name) for name in scene.objects)
    elif scene.count == 1:
        things = with_article(scene.objects[0])
    else:
        things = f"{COUNT_WORDS[scene.count - 1]} {plural(scene.objects[0])}"
    return f"{things} on {with_article(scene.background)} background"


def _single_rounds(rng: np.random.Generator) -> Iterator[Scene]:
    """Round after round, every object once in a count and on a background it has not had."""
    looks = [(count, colour) for count in range(1, MAX_COUNT + 1) for colour in BACKGROUNDS]
    orders = [rng.permutation(len(looks)) for _ in CLASSES]
    for turn in range(len(looks)):
        for thing, order in zip(CLASSES, orders, strict=True):
            yield Scene((thing.name,), *looks[order[turn]])


def _pair_rounds(rng: np.random.Generator) -> Iterator[Scene]:
    """Round after round, every object once on the left and once on the right."""
    colours = tuple(BACKGROUNDS)
    while True:
        ring = [CLASSES[i].name for i in rng.permutation(len(CLASSES))]
        for left, right in zip(ring, ring[1:] + ring[:1], strict=True):
            yield Scene((left, right), 1, colours[rng.integers(len(colours))])


def demo_scenes(n: int = DEMO_SIZE, seed: int = 0) -> list[Scene]:
    """What the collection's `n` pictures show, no scene twice.

    Two thirds show one kind of thing, at most every object, count and background once; the
    rest are pairs.
    """
    rng = np.random.default_rng(seed)
    singles = list(islice(_single_rounds(rng), n * _SINGLES_IN[0] // _SINGLES_IN[1]))
    pairs: dict[Scene, None] = {}
    for scene in _pair_rounds(rng):
        if len(singles) + len(pairs) >= n:
            break
        pairs[scene] = None
    return [*singles, *pairs]


def _key(scene: Scene) -> str:
    what = "-".join(scene.objects) if scene.is_pair else f"{scene.count}-{scene.objects[0]}"
    return f"{what}-{scene.background}.png"


def draw_item(scene: Scene, seed: int) -> DemoItem:
    """One scene drawn and encoded; the picture depends on the scene and `seed` alone."""
    key = _key(scene)
    rng = np.random.default_rng([seed, *key.encode()])
    encoded = io.BytesIO()
    Image.fromarray(render(scene, rng, LARGE)).save(encoded, "PNG", compress_level=2)
    metadata: dict[str, str | int | list[str]] = {
        "caption": describe(scene),
        "objects": list(scene.objects),
        "count": scene.count,
        "background": scene.background,
        "license": LICENSE,
        "attribution": ATTRIBUTION,
    }
    return DemoItem(key, encoded.getvalue(), metadata)


def demo_items(n: int = DEMO_SIZE, seed: int = 0) -> Iterator[DemoItem]:
    """The demo collection's pictures in a fixed order, drawn by two threads as they are taken."""
    scenes = iter(demo_scenes(n, seed))
    with ThreadPoolExecutor(_WORKERS) as pool:
        waiting = [pool.submit(draw_item, scene, seed) for scene in islice(scenes, _AHEAD)]
        while waiting:
            yield waiting.pop(0).result()
            waiting.extend(pool.submit(draw_item, scene, seed) for scene in islice(scenes, 1))
