"""Small pictures to search and to send."""

import io
import json
from pathlib import Path

import numpy as np
from PIL import Image

COLOURS = {"red": (220, 30, 30), "green": (30, 200, 40), "blue": (40, 60, 220)}


def picture(number: int, size: tuple[int, int] = (60, 40)) -> Image.Image:
    """Noise over a colour, another one for every number."""
    rng = np.random.default_rng(number)
    base = np.array(list(COLOURS.values())[number % 3])
    noise = rng.integers(-30, 30, size=(size[1], size[0], 3))
    return Image.fromarray(np.clip(base + noise, 0, 255).astype(np.uint8))


def encoded(image: Image.Image, format: str = "PNG") -> bytes:
    out = io.BytesIO()
    image.save(out, format)
    return out.getvalue()


def write_pictures(folder: Path, count: int) -> None:
    """With metadata, and with one file that is no picture."""
    folder.mkdir()
    lines = []
    for number in range(count):
        name = f"pic {number:02d}.png"
        (folder / name).write_bytes(encoded(picture(number)))
        colour = list(COLOURS)[number % 3]
        lines.append({"file_name": name, "colour": colour, "number": number})
    (folder / "broken.png").write_text("this is text")
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)))
