"""Images of a request: from what its parts say to bytes."""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from fromage_server.errors import ApiError
from fromage_server.gallery import Gallery
from fromage_server.prompt import Picture
from fromage_server.schema.parts import ImageRef, ImageUrlPart
from fromage_server.uploads import UploadStore

MAX_IMAGES: Final = 64
_DATA_URI: Final = re.compile(r"data:(?P<type>[^;,]*)(?P<parameters>(;[^;,]*)*),", re.IGNORECASE)


@dataclass(frozen=True)
class SourceImage:
    """``digest`` is the SHA-256 of the bytes; ``param`` the field that named the image."""

    data: bytes
    digest: str
    param: str


class MediaReader:
    """Data URIs, uploads and images of collections. Reads files: call it in a worker thread."""

    def __init__(self, uploads: UploadStore, gallery: Gallery) -> None:
        self._uploads = uploads
        self._gallery = gallery

    def read(self, pictures: Sequence[Picture]) -> list[SourceImage]:
        """Raises ApiError naming the field of the picture at fault."""
        if len(pictures) > MAX_IMAGES:
            raise ApiError(
                "too_many_images",
                f"the request has {len(pictures)} images; at most {MAX_IMAGES} are accepted",
                param=pictures[MAX_IMAGES].param,
            )
        return [self._read(picture) for picture in pictures]

    def _read(self, picture: Picture) -> SourceImage:
        source = picture.source
        if isinstance(source, ImageUrlPart):
            param = f"{picture.param}.image_url.url"
            data = self._from_url(source, param)
        else:
            param = f"{picture.param}.image"
            data = self._from_ref(source.image, param)
        return SourceImage(data, hashlib.sha256(data).hexdigest(), param)

    def _from_url(self, source: ImageUrlPart, param: str) -> bytes:
        if source.ref is None:
            return _decoded(source.image_url.url, param)
        try:
            return self._from_ref(source.ref, param)
        except ApiError as error:
            raise error.about(param) from None

    def _from_ref(self, ref: ImageRef, param: str) -> bytes:
        if ref.upload is not None:
            upload = self._uploads.get(ref.upload)
            if upload is None:
                raise ApiError(
                    "upload_not_found",
                    f"there is no upload {ref.upload[:80]!r}, or its time is over; send it again "
                    "with POST /v1/uploads",
                    param=f"{param}.upload",
                )
            return upload.data
        assert ref.collection is not None
        assert ref.id is not None
        return self._gallery.image_bytes(ref.collection, ref.id, param=param).data


def _decoded(url: str, param: str) -> bytes:
    found = _DATA_URI.match(url)
    if found is None:
        scheme = url.partition(":")[0][:20] if ":" in url[:20] else ""
        raise ApiError(
            "image_url_not_allowed",
            f"{scheme + ' addresses are' if scheme else 'this is'} not accepted: the server "
            "fetches nothing. Send the image as a data URI (data:image/png;base64,…), or upload "
            "it with POST /v1/uploads and send upload:ID",
            param=param,
        )
    if ";base64" not in found["parameters"].lower():
        raise ApiError(
            "unreadable_image", "the data URI is not base64: data:image/png;base64,…", param=param
        )
    try:
        return base64.b64decode(url[found.end() :], validate=True)
    except (binascii.Error, ValueError) as error:
        raise ApiError(
            "unreadable_image", f"the data URI's base64 is broken: {error}", param=param
        ) from None
