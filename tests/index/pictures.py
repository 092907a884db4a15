"""Small pictures, made on the spot."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fromage_index.manifest import Provenance

PROVENANCE = Provenance(bundle="test", bundle_hash="0" * 64)
CORNERS = {"red": (230, 20, 20), "green": (20, 200, 20), "blue": (20, 20, 230)}


def plain(colour: tuple[int, int, int], size: tuple[int, int] = (24, 16)) -> Image.Image:
    return Image.new("RGB", size, colour)


def corners() -> Image.Image:
    """60 x 40: red at the top left, green at the top right, blue at the bottom left."""
    image = Image.new("RGB", (60, 40), "white")
    for colour, place in zip(CORNERS.values(), [(0, 0), (40, 0), (0, 20)], strict=True):
        image.paste(colour, (*place, place[0] + 20, place[1] + 20))
    return image


def encode(image: Image.Image, format: str = "PNG", **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, format, **options)
    return out.getvalue()


def write_folder(folder: Path, names: Sequence[str]) -> None:
    """One picture for each name, all of different colours."""
    for number, name in enumerate(names):
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        format = "JPEG" if file.suffix in (".jpg", ".JPG") else "PNG"
        file.write_bytes(encode(plain((10 + 40 * number % 240, 90, 160)), format))


def colour_embed(images: list[Any]) -> NDArray[np.float32]:
    """(B, 4): the mean colour and a constant, so that near colours are near vectors."""
    rows = [[*np.asarray(image).reshape(-1, 3).mean(axis=0), 64.0] for image in images]
    return np.array(rows, dtype=np.float32)


def unit_rows(count: int, dim: int, seed: int = 0) -> NDArray[np.float32]:
    rows = np.random.default_rng(seed).standard_normal((count, dim))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows.astype(np.float32)
