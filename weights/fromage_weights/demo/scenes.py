"""From a scene to pixels: where things stand, and drawing them on a background."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fromage_weights.demo.classes import CLASS_BY_NAME
from fromage_weights.demo.glyphs import Artist, openmoji, sprite
from fromage_weights.demo.world import BACKGROUNDS, Scene

MAX_ANGLE = 12.0
BACKGROUND_JITTER = 8


@dataclass(frozen=True)
class Placement:
    """One thing's place, in fractions of the picture's side; `angle` in degrees."""

    name: str
    x: float
    y: float
    extent: float
    angle: float


@dataclass(frozen=True)
class Layout:
    """Centres for each thing, the range of their extents, and how far a centre may stray."""

    centres: tuple[tuple[float, float], ...]
    extents: tuple[float, float]
    stray: tuple[float, float]


PAIR = Layout(((0.26, 0.5), (0.74, 0.5)), (0.42, 0.52), (0.02, 0.12))
LAYOUTS: dict[int, tuple[Layout, ...]] = {
    1: (Layout(((0.5, 0.5),), (0.55, 0.95), (0.20, 0.20)),),
    2: (
        Layout(((0.26, 0.5), (0.74, 0.5)), (0.42, 0.52), (0.02, 0.12)),
        Layout(((0.5, 0.26), (0.5, 0.74)), (0.42, 0.52), (0.12, 0.02)),
        Layout(((0.28, 0.28), (0.72, 0.72)), (0.42, 0.52), (0.03, 0.03)),
        Layout(((0.72, 0.28), (0.28, 0.72)), (0.42, 0.52), (0.03, 0.03)),
    ),
    3: (
        Layout(((0.18, 0.5), (0.5, 0.5), (0.82, 0.5)), (0.32, 0.36), (0.01, 0.10)),
        Layout(((0.5, 0.26), (0.26, 0.74), (0.74, 0.74)), (0.38, 0.50), (0.02, 0.02)),
        Layout(((0.26, 0.26), (0.74, 0.26), (0.5, 0.74)), (0.38, 0.50), (0.02, 0.02)),
    ),
}


def place(scene: Scene, rng: np.random.Generator) -> list[Placement]:
    """Draw where each thing of `scene` stands; nothing leaves the picture."""
    layouts = (PAIR,) if scene.is_pair else LAYOUTS[scene.count]
    layout = layouts[rng.integers(len(layouts))]
    names = scene.objects if scene.is_pair else scene.objects * scene.count
    placements = []
    for name, (x, y) in zip(names, layout.centres, strict=True):
        extent = rng.uniform(*layout.extents)
        room = (1 - extent) / 2
        dx, dy = rng.uniform(-1, 1, size=2) * layout.stray
        x = min(max(x + float(dx), 0.5 - room), 0.5 + room)
        y = min(max(y + float(dy), 0.5 - room), 0.5 + room)
        angle = rng.uniform(-MAX_ANGLE, MAX_ANGLE)
        placements.append(Placement(name, x, y, extent, angle))
    return placements


def background_colour(scene: Scene, rng: np.random.Generator) -> NDArray[np.float32]:
    """The background's red, green and blue (0 to 255), slightly off its nominal value."""
    jitter = rng.integers(-BACKGROUND_JITTER, BACKGROUND_JITTER + 1, size=3)
    return np.clip(np.add(BACKGROUNDS[scene.background], jitter), 0, 255).astype(np.float32)


def blend(
    canvas: NDArray[np.float32], pixels: NDArray[np.uint8] | NDArray[np.float32], x: float, y: float
) -> None:
    """Draw a premultiplied sprite (h, w, 4) onto `canvas` (S, S, 3) in place.

    `x`, `y` is the sprite's centre in pixels; it is moved inwards if it would stick out.
    """
    side = canvas.shape[0]
    height, width = pixels.shape[:2]
    top = min(max(round(y - height / 2), 0), side - height)
    left = min(max(round(x - width / 2), 0), side - width)
    region = canvas[top : top + height, left : left + width]
    left_over = 1.0 - pixels[..., 3] * np.float32(1 / 255)
    for colour in range(3):  # each by itself: numpy is slow where the innermost axis has three
        plane = region[..., colour]
        plane *= left_over
        plane += pixels[..., colour]


@dataclass(frozen=True)
class Sketch:
    """All that is random about one picture: `colour` (3,) of the background, and where things
    stand."""

    colour: NDArray[np.float32]
    spots: tuple[Placement, ...]


def sketch(scene: Scene, rng: np.random.Generator) -> Sketch:
    """How `scene` is drawn once: position, size, turn and colour from `rng`."""
    colour = background_colour(scene, rng)
    return Sketch(colour, tuple(place(scene, rng)))


def render(
    scene: Scene, rng: np.random.Generator, size: int, artist: Artist = openmoji
) -> NDArray[np.uint8]:
    """`scene` drawn once: (size, size, 3)."""
    return paint(sketch(scene, rng), size, artist)


def paint(sketched: Sketch, size: int, artist: Artist = openmoji) -> NDArray[np.uint8]:
    """The picture (size, size, 3), always the same. Threads may paint side by side: most of it is
    turning and shrinking glyphs, for which Pillow lets others run."""
    canvas = np.empty((size, size, 3), np.float32)
    canvas[0] = sketched.colour
    canvas[1:] = canvas[0]
    for spot in sketched.spots:
        extent = max(1, round(spot.extent * size))
        thing = sprite(CLASS_BY_NAME[spot.name].codepoint, extent, spot.angle, artist)
        blend(canvas, thing, spot.x * size, spot.y * size)
    canvas += 0.5
    pixels: NDArray[np.uint8] = np.clip(canvas, 0, 255, out=canvas).astype(np.uint8)
    return pixels
