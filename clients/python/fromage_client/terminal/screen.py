"""What is written to the terminal, and how: safe text, links, pictures, one-line notes."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO
from urllib.parse import quote

from ..images import ImageRef
from ..printable import one_line, printable
from .graphics import Painter

_CLEAR_LINE = "\r\x1b[K"


class Screen:
    """Replies go to `out`, notes and errors to `err`. `links`: the terminal takes hyperlinks."""

    def __init__(
        self, out: TextIO, err: TextIO, *, links: bool = False, painter: Painter | None = None
    ) -> None:
        self._out = out
        self._err = err
        self._links = links
        self.painter = painter
        self._column_zero = True

    def text(self, text: str) -> None:
        """A piece of the reply, shown at once."""
        text = printable(text)
        if text:
            self._write(text)
            self._column_zero = text.endswith("\n")

    def image(self, image: ImageRef, data: bytes | None) -> None:
        """An image on lines of its own: the picture where there is `data`, and the link."""
        self.end_line()
        picture = self.painter(data) if self.painter is not None and data is not None else None
        if picture is not None:
            self._write(picture + "\n")
        self._write(self._link(one_line(image.label), image.address) + "\n")

    def note(self, text: str) -> None:
        """One line about the chat itself, in nobody's reply."""
        self.end_line()
        print(one_line(text, 1000), file=self._err, flush=True)

    @contextmanager
    def waiting(self) -> Iterator[Callable[[str], None]]:
        """Notes of which each replaces the one before, and the last is taken away in the end;
        where `err` is no terminal, a line each."""
        if not self._err.isatty():
            yield self.note
            return
        width = shutil.get_terminal_size().columns - 1
        try:
            yield lambda text: self._tell(_CLEAR_LINE + one_line(text, width))
        finally:
            self._tell(_CLEAR_LINE)

    def stopped(self) -> None:
        """After an interruption, which may have cut an escape sequence: end it, reset colours."""
        if self._links:
            self._write("\x1b\\\x1b[0m")
        self.note("[stopped]")

    def end_line(self) -> None:
        if not self._column_zero:
            self._write("\n")
            self._column_zero = True

    def _tell(self, text: str) -> None:
        self._err.write(text)
        self._err.flush()

    def _write(self, text: str) -> None:
        self._out.write(text)
        self._out.flush()

    def _link(self, label: str, url: str) -> str:
        """OSC 8 where the terminal takes it; the address is percent-encoded down to ASCII."""
        url = quote(url, safe=":/?#[]@!$&'()*+,;=%~-._")
        if self._links and url.startswith(("http://", "https://")):
            return f"\x1b]8;;{url}\x1b\\[image: {label}]\x1b]8;;\x1b\\"
        return f"[image: {label}] {url}"
