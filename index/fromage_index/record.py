"""What is known about one image, and its form as a line of a segment's records."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fromage_index.errors import BadKey

Metadata = dict[str, Any]


@dataclass(frozen=True)
class ImageRecord:
    """One image of a collection.

    `key` is the name its owner knows it by. `path` is set for images referenced where they
    lie, `url` for those known by address; images the collection itself holds have neither.
    `width` and `height` are those of the upright picture, None where they are not known.
    """

    id: str
    key: str
    path: Path | None
    url: str | None
    width: int | None
    height: int | None
    content_type: str | None
    metadata: Metadata


@dataclass(frozen=True)
class StoredRecord:
    """A record as written to disk. `path` is relative to the manifest's root.

    `offset` and `length` say where a picture stands in the segment's images, `sha256` what its
    file was when it was indexed. `serial` is there where it does not follow from the row before.
    """

    id: str
    key: str
    path: str | None = None
    url: str | None = None
    width: int | None = None
    height: int | None = None
    content_type: str | None = None
    offset: int | None = None
    length: int | None = None
    sha256: str | None = None
    serial: int | None = None
    metadata: Metadata = field(default_factory=dict)

    def line(self) -> bytes:
        known = {name: value for name, value in vars(self).items() if value is not None}
        return json.dumps(known, allow_nan=False).encode() + b"\n"

    @classmethod
    def parse(cls, line: bytes) -> StoredRecord:
        return cls(**json.loads(line))


def checked_key(key: str) -> str:
    """`key` where UTF-8 can hold it. A file's name that can't be read as UTF-8 has surrogates in
    Python, and JSON can spell them. Raises BadKey."""
    try:
        key.encode()
    except UnicodeEncodeError as error:
        raise BadKey(
            f"the key {key[:80]!r} holds half of a surrogate pair (character {error.start}), "
            "which is no character"
        ) from None
    return key


def image_id(key: str, occurrence: int = 0) -> str:
    """A stable, URL-safe id for a key; `occurrence` tells rows with one key apart."""
    name = f"{key}\0{occurrence}" if occurrence else key
    return hashlib.sha256(name.encode("utf-8", "surrogateescape")).hexdigest()[:20]
