"""Thousands of training scenes a second, drawn from sprites that are cut once.

Pictures people see are drawn large and shrunk by the tower's preprocessing. Shrinking is
linear, so a shrunken sprite blended on a plain background equals the shrunken picture: each
sprite here takes the same path (drawn on a large canvas, half of them by way of the 224 × 224
squash of uploads, then bicubic) once, and scenes are put together at the tower's own size.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fromage_weights.demo.classes import CLASSES
from fromage_weights.demo.glyphs import sprite
from fromage_weights.demo.scenes import MAX_ANGLE, Placement, background_colour, blend, place
from fromage_weights.demo.world import Scene

LARGE = 240
SQUASHED = 224
_BANDS = ((0.32, 0.38), (0.38, 0.44), (0.44, 0.52), (0.52, 0.65), (0.65, 0.80), (0.80, 0.96))
_NOISE_SIDE = 512


def shrink(canvas: Image.Image, size: int, *, squash: bool) -> NDArray[np.uint8]:
    """As the server shrinks pictures: bicubic, uploads (`squash`) by way of 224 × 224."""
    if squash:
        canvas = canvas.resize((SQUASHED, SQUASHED), Image.Resampling.BICUBIC)
    return np.asarray(canvas.resize((size, size), Image.Resampling.BICUBIC))


def _cut(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    rows = np.flatnonzero(pixels[..., 3].any(axis=1))
    columns = np.flatnonzero(pixels[..., 3].any(axis=0))
    cut = pixels[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    return np.ascontiguousarray(cut, np.float32)


def _small_sprite(
    codepoint: str, extent: float, size: int, rng: np.random.Generator
) -> NDArray[np.float32]:
    side = round(extent * LARGE)
    pixels = sprite(codepoint, side, rng.uniform(-MAX_ANGLE, MAX_ANGLE))
    canvas = Image.new("RGBa", (LARGE, LARGE))
    corner = rng.integers(0, LARGE - side + 1, size=2)
    canvas.paste(Image.fromarray(pixels, mode="RGBa"), (int(corner[0]), int(corner[1])))
    return _cut(shrink(canvas, size, squash=bool(rng.integers(2))))


class SpriteBank:
    """Every class at several sizes and turns, cut for pictures of `size` pixels.

    `draw` gives (B, size, size, 3) uint8 for a batch of scenes.
    """

    def __init__(self, size: int, *, variants: int, rng: np.random.Generator) -> None:
        self.size = size
        self._sprites = {
            (thing.name, band): [
                _small_sprite(thing.codepoint, rng.uniform(*_BANDS[band]), size, rng)
                for _ in range(variants)
            ]
            for thing in CLASSES
            for band in range(len(_BANDS))
        }
        self._noise = rng.normal(0, 1, (_NOISE_SIDE, _NOISE_SIDE, 3)).astype(np.float32)

    def _pick(self, spot: Placement, rng: np.random.Generator) -> NDArray[np.float32]:
        band = next(i for i, (_, high) in enumerate(_BANDS) if spot.extent <= high)
        variants = self._sprites[spot.name, band]
        return variants[rng.integers(len(variants))]

    def _draw_one(
        self, scene: Scene, canvas: NDArray[np.float32], rng: np.random.Generator
    ) -> None:
        canvas[:] = background_colour(scene, rng)
        for spot in place(scene, rng):
            blend(canvas, self._pick(spot, rng), spot.x * self.size, spot.y * self.size)
        top, left = rng.integers(0, _NOISE_SIDE - self.size, size=2)
        patch = self._noise[top : top + self.size, left : left + self.size]
        canvas += patch * rng.uniform(0, 5)

    def draw(self, scenes: Sequence[Scene], rng: np.random.Generator) -> NDArray[np.uint8]:
        canvases = np.empty((len(scenes), self.size, self.size, 3), np.float32)
        for scene, canvas in zip(scenes, canvases, strict=True):
            self._draw_one(scene, canvas, rng)
        pixels: NDArray[np.uint8] = np.clip(canvases + 0.5, 0, 255).astype(np.uint8)
        return pixels
