"""Small versions of a collection's images, made when first asked for and kept beside it."""

from __future__ import annotations

import contextlib
import io
import os
import secrets
from pathlib import Path

from PIL import Image

# Sizes asked for are rounded up to one of these: a client cannot fill the disk.
SIZES = (128, 256, 512, 1024)
CONTENT_TYPE = "image/jpeg"


def ladder(size: int) -> int:
    """The kept size that serves a request for `size` pixels on the longer side."""
    return next((step for step in SIZES if step >= size), SIZES[-1])


class ThumbnailCache:
    """JPEG files under one directory; a read-only directory only costs the keeping."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def load(self, image: str, size: int, newer_than: float) -> bytes | None:
        """A kept thumbnail, unless its picture has changed since (`newer_than`, Unix time)."""
        file = self._file(image, size)
        try:
            return file.read_bytes() if file.stat().st_mtime >= newer_than else None
        except OSError:
            return None

    def save(self, image: str, size: int, data: bytes) -> None:
        file = self._file(image, size)
        beside = file.with_name(f".{file.name}.{secrets.token_hex(4)}")
        with contextlib.suppress(OSError):
            file.parent.mkdir(parents=True, exist_ok=True)
            beside.write_bytes(data)
            os.replace(beside, file)

    def remove(self, image: str) -> None:
        for size in SIZES:
            with contextlib.suppress(OSError):
                self._file(image, size).unlink()

    def _file(self, image: str, size: int) -> Path:
        return self._directory / str(size) / image[:2] / f"{image}.jpg"


def shrink(image: Image.Image, size: int) -> bytes:
    """A JPEG whose longer side is at most `size`; small pictures are not enlarged."""
    smaller = image.copy()
    smaller.thumbnail((size, size), Image.Resampling.LANCZOS)
    out = io.BytesIO()
    smaller.save(out, "JPEG", quality=88)
    return out.getvalue()
