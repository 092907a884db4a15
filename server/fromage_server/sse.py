"""The one encoder of server-sent events (WHATWG HTML, "Server-sent events")."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

KEEP_ALIVE = b": keep-alive\n\n"
LINE_LIMIT = 60_000


class SseEncoder:
    """Frames of one stream; ids rise by one from 0."""

    def __init__(self) -> None:
        self._next_id = 0

    def frame(self, event: str, data: Mapping[str, Any]) -> bytes:
        """``event``, ``id`` and the JSON. JSON of more than 60,000 bytes (log-probabilities of a
        long reply) goes out as many `data:` lines, which a reader joins: line readers have
        limits."""
        text = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
        if len(text.encode()) > LINE_LIMIT:
            text = json.dumps(data, ensure_ascii=False, indent=0)
        lines = "".join(f"data: {line}\n" for line in text.split("\n"))
        frame = f"event: {event}\nid: {self._next_id}\n{lines}\n"
        self._next_id += 1
        return frame.encode()
