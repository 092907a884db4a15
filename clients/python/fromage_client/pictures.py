"""Images of one's own, in the forms that callers have them in, as the bytes of a file.

Pillow and numpy are never imported here: an object can be one of theirs only where somebody has.
"""

from __future__ import annotations

import base64
import binascii
import sys
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import unquote_to_bytes

from .errors import UnusablePicture
from .png import CHANNELS, SIGNATURE, encode_png

if TYPE_CHECKING:
    import numpy
    from PIL import Image

_MAGIC: Final = {
    SIGNATURE: "image/png",
    b"\xff\xd8\xff": "image/jpeg",
    b"GIF8": "image/gif",
    b"BM": "image/bmp",
    b"II*\0": "image/tiff",
    b"MM\0*": "image/tiff",
}
UNKNOWN: Final = "application/octet-stream"
_PNG_MODES: Final = frozenset({"1", "L", "LA", "P", "RGB", "RGBA", "I;16"})


@dataclass(frozen=True, eq=False)
class Picture:
    """An image of one's own, where a plain text would be read as text.

    `source` is a path (`str` or `pathlib.Path`), an `http(s)` or `data:` URL, the bytes of an image
    file, a PIL image, or a numpy array of the form (height, width) or (height, width, 1, 3 or 4):
    `uint8`, or floats from 0 to 1. An `http(s)` URL is fetched here, not by the server.
    """

    source: str | Path | bytes | Image.Image | numpy.ndarray[Any, Any]

    @property
    def url(self) -> str | None:
        """The address, where it has to be fetched."""
        given = self.source
        return given if isinstance(given, str) and _starts(given, "http://", "https://") else None

    @property
    def name(self) -> str | None:
        """The file's name, where it comes from one."""
        given = self.source
        if self.url is not None or (isinstance(given, str) and _starts(given, "data:")):
            return None
        return Path(given).name if isinstance(given, str | Path) else None

    def read(self) -> bytes:
        """The image as a file's bytes; nothing is fetched. Raises OSError, UnusablePicture."""
        given = self.source
        if isinstance(given, bytes):
            return given
        if isinstance(given, str) and _starts(given, "data:"):
            return from_data_url(given)
        if isinstance(given, str | Path):
            return Path(given).read_bytes()
        if _is_pil(given):
            return _from_pil(given)
        if _is_array(given):
            return _from_array(given)
        raise UnusablePicture(
            "an image is a path, a URL, bytes, a PIL image or a numpy array, "
            f"not {type(given).__name__}"
        )


def is_picture(value: object) -> bool:
    """Whether it is an image wherever it stands (a `str` is not: it may be text)."""
    return isinstance(value, Picture | Path | bytes) or _is_pil(value) or _is_array(value)


def as_picture(value: Any) -> Picture:
    return value if isinstance(value, Picture) else Picture(value)


def content_type(data: bytes) -> str:
    """The media type that the first bytes tell; the server refuses what it can't read."""
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "image/webp"
    known = (kind for magic, kind in _MAGIC.items() if data.startswith(magic))
    return next(known, UNKNOWN)


def data_url(data: bytes) -> str:
    return f"data:{content_type(data)};base64,{base64.b64encode(data).decode()}"


def from_data_url(url: str) -> bytes:
    """The bytes that a `data:` URL holds (RFC 2397). Raises UnusablePicture."""
    head, comma, body = url.partition(",")
    if not comma:
        raise UnusablePicture(f"{url[:40]!r} is not a data URL: it has no comma")
    if not head.lower().endswith(";base64"):
        return unquote_to_bytes(body)
    try:
        return base64.b64decode(body, validate=True)
    except binascii.Error as error:
        raise UnusablePicture(f"the base64 of a data URL is broken: {error}") from error


def _starts(text: str, *schemes: str) -> bool:
    return text[:8].lower().startswith(schemes)


def _is_pil(value: object) -> bool:
    module = sys.modules.get("PIL.Image")
    return module is not None and isinstance(value, module.Image)


def _is_array(value: object) -> bool:
    module = sys.modules.get("numpy")
    return module is not None and isinstance(value, module.ndarray)


def _from_pil(image: Any) -> bytes:
    """Upright, without loss."""
    from PIL import ImageOps

    image = ImageOps.exif_transpose(image)
    out = BytesIO()
    (image if image.mode in _PNG_MODES else image.convert("RGB")).save(out, "PNG")
    return out.getvalue()


def _from_array(array: Any) -> bytes:
    height, width, channels = _form(array)
    if array.dtype.kind == "f":
        if not (array.min() >= 0 and array.max() <= 1):
            raise UnusablePicture(
                f"an array of floats holds 0 to 1; this one {array.min():.6g} to {array.max():.6g}"
            )
        array = (array * 255).round().astype("uint8")
    elif array.dtype.name != "uint8":
        raise UnusablePicture(f"an array of pixels is uint8 or floats, not {array.dtype.name}")
    return encode_png(array.tobytes(), width, height, channels)


def _form(array: Any) -> tuple[int, int, int]:
    shape = (*array.shape, 1) if array.ndim == 2 else array.shape
    if len(shape) != 3 or shape[2] not in CHANNELS or 0 in shape:
        raise UnusablePicture(
            "an array of pixels has the shape (height, width) or (height, width, 1, 3 or 4), "
            f"not {tuple(array.shape)}"
        )
    return shape
