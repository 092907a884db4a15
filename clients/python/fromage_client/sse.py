"""Server-sent events, read incrementally (WHATWG HTML, "Interpreting an event stream")."""

from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Frame:
    """One dispatched event. `id` is the last id seen, as the standard has it."""

    event: str
    data: str
    id: str


class SSEParser:
    """Turns bytes, cut anywhere, into frames.

    Lines end in LF, CR or CRLF and in nothing else: JSON may hold U+2028 or U+0085 as they are,
    at which `str.splitlines` and httpx's line reader would cut it.
    """

    def __init__(self) -> None:
        self._partial = b""
        self._after_cr = False
        self._first_line = True
        self._event = ""
        self._data: list[str] = []
        self._id = ""

    def feed(self, chunk: bytes) -> Iterator[Frame]:
        """The frames that `chunk` completes."""
        for line in self._lines(chunk):
            frame = self._take(line)
            if frame is not None:
                yield frame

    def _lines(self, chunk: bytes) -> list[str]:
        if self._after_cr and chunk.startswith(b"\n"):
            chunk = chunk[1:]
            self._after_cr = False
        if not chunk:
            return []
        self._after_cr = chunk.endswith(b"\r")
        lines = (self._partial + chunk).splitlines(keepends=True)
        self._partial = b"" if lines[-1].endswith((b"\n", b"\r")) else lines.pop()
        return [line.rstrip(b"\r\n").decode(errors="replace") for line in lines]

    def _take(self, line: str) -> Frame | None:
        if self._first_line:
            line = line.removeprefix("\ufeff")
            self._first_line = False
        if not line:
            return self._dispatch()
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if field == "data":
            self._data.append(value)
        elif field == "event":
            self._event = value
        elif field == "id" and "\0" not in value:
            self._id = value
        return None

    def _dispatch(self) -> Frame | None:
        """A frame without data is dropped, and with it its name (a keep-alive has neither)."""
        event, data = self._event or "message", self._data
        self._event, self._data = "", []
        return Frame(event, "\n".join(data), self._id) if data else None
