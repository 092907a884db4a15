"""The one encoder of server-sent events (WHATWG HTML, "Server-sent events")."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

KEEP_ALIVE = b": keep-alive\n\n"
# Of the JSON: with the event's name and id a frame stays under 64 KiB.
FRAME_LIMIT = 60_000
DONE = b"data: [DONE]\n\n"
# Made once: ``json.dumps`` would make one for every frame.
_in_unicode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
_in_ascii = json.JSONEncoder(separators=(",", ":")).encode


class SseEncoder:
    """Frames of one stream; ids rise by one from 0."""

    def __init__(self) -> None:
        self._next_id = 0

    def frame(self, event: str, data: Mapping[str, Any]) -> bytes:
        """``event``, ``id`` and the JSON on one line."""
        frame = f"event: {event}\nid: {self._next_id}\ndata: {_in_unicode(data)}\n\n"
        self._next_id += 1
        return frame.encode()


def data_frame(data: Mapping[str, Any]) -> bytes:
    """The JSON alone, as OpenAI's clients read it: in ASCII, since some split lines at every
    character that Unicode calls a line's end."""
    return f"data: {_in_ascii(data)}\n\n".encode()
