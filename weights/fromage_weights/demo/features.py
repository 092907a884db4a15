"""Pooled vision features of many drawn scenes, made once and paired with text afterwards."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fromage_weights.demo.classes import CLASS_INDEX
from fromage_weights.demo.grammar import COLOURS, Wish
from fromage_weights.demo.hardware import Hardware
from fromage_weights.demo.sprites import SpriteBank
from fromage_weights.demo.tower_model import IMAGE_SIZE, to_pixels
from fromage_weights.demo.world import Scene

if TYPE_CHECKING:
    from fromage_weights.vision import VisionEncoder

_BATCH = 256
_VARIANTS = 10
ANY = -1

Key = tuple[int, int, int, int]


def codes(said: Sequence[Wish] | Sequence[Scene]) -> Tensor:
    """(N, 4) integers: lower object, higher object (the same for singles), count, background;
    ANY where a wish says nothing."""
    rows = []
    for one in said:
        places = sorted(CLASS_INDEX[name] for name in one.objects)
        count = ANY if one.count is None else one.count
        ground = ANY if one.background is None else COLOURS.index(one.background)
        rows.append((places[0], places[-1], count, ground))
    return torch.tensor(rows, dtype=torch.long).reshape(-1, 4)


def admitted(wishes: Tensor, scenes: Tensor) -> Tensor:
    """(W, 4) and (S, 4) codes -> (W, S): the scene has all that the wish says."""
    right = wishes.new_ones(len(wishes), len(scenes), dtype=torch.bool)
    for said, shown in zip(wishes.T, scenes.T, strict=True):  # one at a time: half the work
        right &= (said[:, None] == shown) | (said[:, None] == ANY)
    return right


def unjudged(wishes: Tensor, scenes: Tensor) -> Tensor:
    """(W, S): pictures that a wish for just "a dog" or "dogs" doesn't mean but that do show one.

    They are neither right nor wrong.
    """
    bare = (wishes[:, 0] == wishes[:, 1]) & (wishes[:, 2] <= 1) & (wishes[:, 3] == ANY)
    shows = (wishes[:, None, 0] == scenes[None, :, 0]) | (wishes[:, None, 0] == scenes[None, :, 1])
    return bare[:, None] & shows & ~admitted(wishes, scenes)


class Matches:
    """For any wish's code, the pictures that have what it says."""

    def __init__(self, scenes: Tensor) -> None:
        found: dict[Key, list[int]] = defaultdict(list)
        for i, (low, high, count, ground) in enumerate(scenes.tolist()):
            for said in (count, ANY):
                for colour in (ground, ANY):
                    found[low, high, said, colour].append(i)
        self._rows = {key: np.array(rows) for key, rows in found.items()}

    def __contains__(self, key: Key) -> bool:
        return key in self._rows

    def one(self, key: Key, rng: np.random.Generator) -> int:
        rows = self._rows[key]
        return int(rows[int(rng.integers(len(rows)))])


@dataclass(frozen=True)
class FeatureBank:
    """`features` (N, Dv) float32 of pictures that show `scenes`."""

    scenes: list[Scene]
    features: Tensor

    @cached_property
    def codes(self) -> Tensor:
        return codes(self.scenes)

    @cached_property
    def matches(self) -> Matches:
        return Matches(self.codes)

    @cached_property
    def rows(self) -> dict[Scene, list[int]]:
        """All pictures of each scene."""
        found: dict[Scene, list[int]] = defaultdict(list)
        for i, scene in enumerate(self.scenes):
            found[scene].append(i)
        return dict(found)

    def any_scene(self, rng: np.random.Generator) -> Scene:
        return self.scenes[int(rng.integers(len(self.scenes)))]

    def row_of(self, scene: Scene, rng: np.random.Generator) -> int:
        rows = self.rows[scene]
        return rows[int(rng.integers(len(rows)))]


def make_features(
    encoder: VisionEncoder, scenes: list[Scene], *, seed: int, hardware: Hardware | None = None
) -> FeatureBank:
    """Draw each scene once and encode it."""
    hardware = hardware or Hardware.cpu()
    encoder.to(hardware.device)
    bank = SpriteBank(IMAGE_SIZE, variants=_VARIANTS, rng=np.random.default_rng([seed, 77]))
    parts = []
    draw = partial(_drawn, bank, scenes, seed)
    for images in hardware.made(draw, 0, -(-len(scenes) // _BATCH)):
        with hardware.autocast():
            parts.append(encoder.encode(to_pixels(images, hardware.device)))
    return FeatureBank(scenes, torch.cat(parts))


def _drawn(bank: SpriteBank, scenes: list[Scene], seed: int, part: int) -> NDArray[np.uint8]:
    rng = np.random.default_rng([seed, 77, part])
    return bank.draw(scenes[part * _BATCH : (part + 1) * _BATCH], rng)
