"""Scenes as plain facts: what is in the picture, how many, on which background.

A scene is one to three of one thing, or two different things side by side. Rendering
(`scenes`), captions (`grammar`) and splits (`splits`) all start from here.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import permutations

import numpy as np

from fromage_weights.demo.classes import CLASSES

BACKGROUNDS: dict[str, tuple[int, int, int]] = {
    "white": (250, 250, 250),
    "gray": (150, 152, 155),
    "red": (224, 74, 66),
    "yellow": (246, 214, 70),
    "green": (92, 170, 84),
    "blue": (78, 128, 214),
    "purple": (140, 92, 178),
    "pink": (244, 164, 190),
}
MAX_COUNT = 3


@dataclass(frozen=True)
class Scene:
    """One picture's content.

    `objects` holds one class name, drawn `count` times (1 to 3), or two different names,
    left to right, with `count` 1 each. `background` is a key of `BACKGROUNDS`.
    """

    objects: tuple[str, ...]
    count: int
    background: str

    @property
    def is_pair(self) -> bool:
        return len(self.objects) == 2


def single_scenes() -> Iterator[Scene]:
    """Every object, count and background."""
    for thing in CLASSES:
        for count in range(1, MAX_COUNT + 1):
            for background in BACKGROUNDS:
                yield Scene((thing.name,), count, background)


def pair_scenes() -> Iterator[Scene]:
    """Every ordered pair of different objects on every background."""
    for left, right in permutations((thing.name for thing in CLASSES), 2):
        for background in BACKGROUNDS:
            yield Scene((left, right), 1, background)


def random_scene(rng: np.random.Generator, *, pairs: float = 0.5) -> Scene:
    """A scene drawn uniformly from the pairs (with probability `pairs`) or the singles."""
    background = list(BACKGROUNDS)[rng.integers(len(BACKGROUNDS))]
    if rng.random() < pairs:
        left, right = rng.choice(len(CLASSES), size=2, replace=False)
        return Scene((CLASSES[left].name, CLASSES[right].name), 1, background)
    thing = CLASSES[rng.integers(len(CLASSES))]
    return Scene((thing.name,), int(rng.integers(1, MAX_COUNT + 1)), background)
