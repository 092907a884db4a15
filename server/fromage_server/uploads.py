"""Images that were sent ahead of the message that speaks of them."""

from __future__ import annotations

import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from fromage_server.errors import ApiError


@dataclass(frozen=True)
class Upload:
    id: str
    data: bytes
    width: int
    height: int
    expires_at: int


class UploadStore:
    """In memory, bounded in bytes; an upload goes when its time is over, or earlier where newer
    ones need its room. Ids can't be guessed. Any thread may call."""

    def __init__(
        self, *, ttl_s: int, max_bytes: int, clock: Callable[[], float] = time.time
    ) -> None:
        self._ttl_s = ttl_s
        self._max_bytes = max_bytes
        self._clock = clock
        self._lock = threading.Lock()
        self._uploads: OrderedDict[str, Upload] = OrderedDict()
        self._bytes = 0

    def add(self, data: bytes, width: int, height: int) -> Upload:
        """Raises ApiError where ``data`` alone is larger than the store."""
        if len(data) > self._max_bytes:
            raise ApiError(
                "body_too_large",
                f"the image has {len(data):,} bytes; this server keeps at most {self._max_bytes:,}",
            )
        upload = Upload(
            id=f"up_{secrets.token_urlsafe(18)}",
            data=data,
            width=width,
            height=height,
            expires_at=int(self._clock()) + self._ttl_s,
        )
        with self._lock:
            self._make_room(len(data))
            self._uploads[upload.id] = upload
            self._bytes += len(data)
        return upload

    def get(self, id: str) -> Upload | None:
        with self._lock:
            self._make_room(0)
            return self._uploads.get(id)

    def _make_room(self, size: int) -> None:
        """Drops what has expired, then the oldest until ``size`` bytes fit."""
        now = self._clock()
        while self._uploads:
            oldest = next(iter(self._uploads.values()))
            if oldest.expires_at > now and self._bytes + size <= self._max_bytes:
                return
            self._uploads.popitem(last=False)
            self._bytes -= len(oldest.data)
