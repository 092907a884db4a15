"""Which scenes a contrastive step compares: half the batches differ in one thing only."""

from collections.abc import Callable

import numpy as np

from fromage_weights.demo.classes import CLASSES
from fromage_weights.demo.splits import is_held_out
from fromage_weights.demo.world import BACKGROUNDS, MAX_COUNT, Scene, random_scene

_NAMES = tuple(thing.name for thing in CLASSES)
_COLOURS = tuple(BACKGROUNDS)


def mixed(size: int, rng: np.random.Generator) -> list[Scene]:
    """Singles and pairs of every kind."""
    return [random_scene(rng) for _ in range(size)]


def objects_only(size: int, rng: np.random.Generator) -> list[Scene]:
    """One background and one count: only the object tells the pictures apart."""
    colour = _COLOURS[rng.integers(len(_COLOURS))]
    count = int(rng.integers(1, MAX_COUNT + 1))
    names = [
        _NAMES[i] for _ in range(-(-size // len(_NAMES))) for i in rng.permutation(len(_NAMES))
    ]
    return [Scene((name,), count, colour) for name in names[:size]]


def attributes_only(size: int, rng: np.random.Generator) -> list[Scene]:
    """A few objects in every count and on every background."""
    per_object = MAX_COUNT * len(_COLOURS)
    chosen = rng.permutation(len(_NAMES))[: -(-size // per_object)]
    scenes = [
        Scene((_NAMES[i],), count, colour)
        for i in chosen
        for count in range(1, MAX_COUNT + 1)
        for colour in _COLOURS
    ]
    return scenes[:size]


def chained_pairs(size: int, rng: np.random.Generator) -> list[Scene]:
    """One background; a-b, b-a, b-c, c-b …: every picture has near twins and its swap."""
    colour = _COLOURS[rng.integers(len(_COLOURS))]
    ring = [_NAMES[i] for i in rng.permutation(len(_NAMES))]
    pairs = [(ring[i - 1], ring[i]) for i in range(len(ring))]
    scenes = [Scene(p, 1, colour) for pair in pairs for p in (pair, pair[::-1])]
    return scenes[:size]


_KINDS: tuple[tuple[float, Callable[[int, np.random.Generator], list[Scene]]], ...] = (
    (0.40, mixed),
    (0.25, objects_only),
    (0.10, attributes_only),
    (0.25, chained_pairs),
)


def batch(size: int, rng: np.random.Generator) -> list[Scene]:
    """`size` training scenes; held-out ones are replaced by random training scenes."""
    weights = [weight for weight, _ in _KINDS]
    scenes = _KINDS[rng.choice(len(_KINDS), p=weights)][1](size, rng)
    scenes = [scene for scene in scenes if not is_held_out(scene)]
    while len(scenes) < size:
        extra = random_scene(rng)
        if not is_held_out(extra):
            scenes.append(extra)
    return scenes
