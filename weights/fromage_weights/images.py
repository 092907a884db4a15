"""Files of images, whatever state they are in."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.Image import Image

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff")
# Resized to a tower's height, a thinner one would take gigabytes.
THINNEST = 50


def open_image(data: bytes) -> Image:
    """The first frame, upright, as RGB. Raises OSError or ValueError for what is no image."""
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(data)) as image:
            return ImageOps.exif_transpose(image).convert("RGB")
    except UnidentifiedImageError as error:  # its text has the address of the bytes
        raise ValueError("no image that Pillow knows" if data else "the file is empty") from error
    except (OSError, MemoryError):  # the latter is no fault of the file's
        raise
    except Exception as error:
        # Pillow's readers let through what damaged files make them stumble over, struct.error and
        # TypeError among it.
        raise ValueError(f"{type(error).__name__}: {error}") from error


def open_for_crop(data: bytes) -> Image:
    """An image from whose centre a square can be cut. Raises as `open_image` does."""
    image = open_image(data)
    if max(image.size) > THINNEST * min(image.size):
        raise ValueError(f"{image.width} x {image.height} pixels: too thin to be cut to a square")
    return image
