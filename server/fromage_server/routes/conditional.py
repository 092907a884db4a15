"""Files, which a client that has them needn't get again."""

from __future__ import annotations

from collections.abc import Mapping

from fastapi import Request
from starlette.responses import Response

from fromage_server.gallery import ImageFile


def file_response(request: Request, file: ImageFile, headers: Mapping[str, str]) -> Response:
    """304 where the request's If-None-Match names the file as it is."""
    tagged = {**headers, "ETag": file.etag}
    if {file.etag, "*"} & _known_tags(request):
        return Response(status_code=304, headers=tagged)
    return Response(file.data, media_type=file.content_type, headers=tagged)


def _known_tags(request: Request) -> set[str]:
    header = request.headers.get("if-none-match", "")
    return {tag.strip().removeprefix("W/") for tag in header.split(",")}
