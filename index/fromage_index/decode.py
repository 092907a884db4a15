"""The one place where bytes from outside become pixels."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from fromage_index.errors import UnreadableImage
from fromage_index.sniff import ACCEPTED, CONTENT_TYPES, describe, sniff_content_type

MAX_PIXELS = 64_000_000
# Resizing the short edge of a 1 x 1,000,000 strip to 224 would take 150 GB.
MAX_ASPECT = 200
_STRIP_PIXELS = 1_000_000

_FORMATS = tuple(CONTENT_TYPES)
_TIFF_TILE_WIDTH, _TIFF_TILE_LENGTH, _ORIENTATION = 322, 323, 0x0112


@dataclass(frozen=True)
class ImageInfo:
    """What an image's header says; the size is that of the upright picture."""

    content_type: str
    width: int
    height: int


def decode_image(data: bytes, *, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """The first frame as 8-bit RGB: upright, transparency on white, nothing attached.

    The size is checked from the header, before a pixel is decoded. Raises UnreadableImage.
    """
    image = _open(io.BytesIO(data), data[:1024], max_pixels)
    try:
        image.load()
        upright = _upright(image)
        rgb = _to_rgb(upright)
    except Exception as error:  # a codec may raise anything on hostile bytes
        raise UnreadableImage(
            f"the {image.format} image is damaged or cut short ({error}); send the whole file. "
            f"{ACCEPTED}"
        ) from error
    rgb.info = {}
    return rgb


def inspect_image(file: BinaryIO, *, max_pixels: int = MAX_PIXELS) -> ImageInfo:
    """Type and size from the header alone. Raises UnreadableImage for what is no image."""
    head = file.read(1024)
    file.seek(0)
    image = _open(file, head, max_pixels)
    width, height = image.size
    # Pillow reports a TIFF's upright size by itself.
    if image.format != "TIFF" and _orientation(image) >= 5:
        width, height = height, width
    return ImageInfo(sniff_content_type(head) or "", width, height)


def _open(file: BinaryIO, head: bytes, max_pixels: int) -> Image.Image:
    """An image whose header has been read and found acceptable."""
    if not head:
        raise UnreadableImage(f"the file is empty. {ACCEPTED}")
    if sniff_content_type(head) is None:
        raise UnreadableImage(f"the file is {describe(head)}, not an image. {ACCEPTED}")
    try:
        image = Image.open(file, formats=_FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise UnreadableImage(
            f"the image is larger than {max_pixels:,} pixels. {ACCEPTED}"
        ) from error
    except Exception as error:
        raise UnreadableImage(
            f"the file begins like an image but its header is damaged or cut short. {ACCEPTED}"
        ) from error
    _check_size(image, max_pixels)
    return image


def _check_size(image: Image.Image, max_pixels: int) -> None:
    width, height = image.size
    if width * height > max_pixels or _tile_pixels(image) > max_pixels:
        raise UnreadableImage(
            f"the image is {width} x {height}; at most {max_pixels:,} pixels are accepted"
        )
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise UnreadableImage(
            f"the image is {width} x {height}; one side may be at most {MAX_ASPECT} times the other"
        )


def _tile_pixels(image: Image.Image) -> int:
    """A TIFF decodes tile by tile, and a tile may be larger than the picture."""
    tags = getattr(image, "tag_v2", None)
    if tags is None:
        return 0
    return int(tags.get(_TIFF_TILE_WIDTH, 0)) * int(tags.get(_TIFF_TILE_LENGTH, 0))


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # a broken EXIF block doesn't spoil the picture
        return 1


def _upright(image: Image.Image) -> Image.Image:
    return ImageOps.exif_transpose(image) if _orientation(image) != 1 else image


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return _deep_grey(image).convert("RGB")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    return image.convert("RGB")


def _deep_grey(image: Image.Image) -> Image.Image:
    """16-bit, 32-bit and float grey to 8 bits.

    The full scale is 65535 for 16-bit; for the wider types, which have no convention, the
    smallest usual one that holds the values (1.0 for floats, 255, 65535), else their own range.
    """
    values = np.asarray(image)
    rows = max(1, _STRIP_PIXELS // values.shape[1])
    strips = range(0, len(values), rows)
    low = min(float(_finite(values[at : at + rows]).min()) for at in strips)
    high = max(float(_finite(values[at : at + rows]).max()) for at in strips)
    scales = {"I": (255.0, 65535.0), "F": (1.0, 255.0)}.get(image.mode, (65535.0,))
    full = next((scale for scale in scales if low >= 0 and high <= scale), None)
    if full is None:
        full = max(high - low, 1e-12)
    else:
        low = 0.0
    grey = np.empty(values.shape, np.uint8)
    for at in strips:  # in strips: floats of a whole large image would take 16 times its size
        grey[at : at + rows] = np.rint((_finite(values[at : at + rows]) - low) * (255.0 / full))
    return Image.fromarray(grey)


def _finite(values: NDArray[Any]) -> NDArray[np.float64]:
    return np.nan_to_num(values.astype(np.float64), posinf=0.0, neginf=0.0)
