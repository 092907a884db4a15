"""Messages and prompts as callers write them, turned into the server's JSON.

Content is a text, or a list of parts: `str` (text), `pathlib.Path` or `bytes` (an image of one's
own), `ImageRef` (an image of a collection), `Upload`, the parts of a `Reply`, or a part's own JSON.
"""

import base64
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .reply import ImagePart, ImageRef, TextPart

INLINE_LIMIT = 1 << 20
"""Bytes up to which an image travels inside the request; a larger one is uploaded first."""


@dataclass(frozen=True)
class Upload:
    """An image the server holds until `expires_at` (Unix time). Sizes in pixels."""

    id: str
    width: int
    height: int
    expires_at: int


InputPart = str | bytes | Path | ImageRef | Upload | TextPart | ImagePart | Mapping[str, Any]
Content = str | Sequence[InputPart]
Uploader = Callable[[bytes], Upload]

_MAGIC = {
    b"\x89PNG\r\n\x1a\n": "image/png",
    b"\xff\xd8\xff": "image/jpeg",
    b"GIF8": "image/gif",
    b"BM": "image/bmp",
    b"II*\0": "image/tiff",
    b"MM\0*": "image/tiff",
}


def content_type(data: bytes) -> str:
    """The media type that the first bytes tell; the server refuses what it can't read."""
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "image/webp"
    known = (kind for magic, kind in _MAGIC.items() if data.startswith(magic))
    return next(known, "application/octet-stream")


def encode_message(message: Mapping[str, Any], upload: Uploader) -> dict[str, Any]:
    """A message with its content in the server's form; other keys are left as they are."""
    encoded = dict(message)
    if "content" in message:
        encoded["content"] = encode_content(message["content"], upload)
    return encoded


def encode_content(content: Content, upload: Uploader) -> str | list[dict[str, Any]]:
    """A text as it is, parts each in the server's form."""
    return content if isinstance(content, str) else [_encode_part(part, upload) for part in content]


def _encode_part(part: InputPart, upload: Uploader) -> dict[str, Any]:
    match part:
        case str():
            return {"type": "text", "text": part}
        case Path():
            return _image_part(part.read_bytes(), upload)
        case bytes():
            return _image_part(part, upload)
        case Upload():
            return {"type": "image", "image": {"upload": part.id}}
        case ImageRef():
            return {"type": "image", "image": {"collection": part.collection, "id": part.id}}
        case TextPart() | ImagePart():
            return part.to_json()
        case Mapping():
            return dict(part)
    kinds = "str, Path, bytes, ImageRef, Upload, TextPart, ImagePart or a mapping"
    raise TypeError(f"a content part is {kinds}, not {type(part).__name__}")


def _image_part(data: bytes, upload: Uploader) -> dict[str, Any]:
    if len(data) > INLINE_LIMIT:
        return {"type": "image", "image": {"upload": upload(data).id}}
    url = f"data:{content_type(data)};base64,{base64.b64encode(data).decode()}"
    return {"type": "image_url", "image_url": {"url": url}}
