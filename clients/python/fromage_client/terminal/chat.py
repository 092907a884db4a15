"""The chat's loop: lines in, replies out."""

import shlex
from collections.abc import Callable
from pathlib import Path

from ..client import Client
from ..errors import FromageError
from ..events import ImageShown, MessageEnd, TextDelta
from ..images import ImageRef
from ..options import ChatOptions
from .screen import Screen

HELP = """\
/image PATH  send an image with the next message
/reset       forget the conversation
/quit        leave (so does Ctrl-D)
Ctrl-C       stop the reply"""

THUMBNAIL = 512
"""Pixels of the longest edge; more than a terminal shows at the height pictures have here."""

ReadLine = Callable[[], str | None]
"""The next line without its newline; None at the end of the input."""


class TerminalChat:
    """One conversation. `failed` tells whether any line came to an error."""

    def __init__(
        self, client: Client, screen: Screen, options: ChatOptions, *, interactive: bool
    ) -> None:
        self._client = client
        self._screen = screen
        self._interactive = interactive
        self._options = options
        self._begin()
        self.failed = False

    def run(self, read_line: ReadLine) -> None:
        """Answers lines until they end, or one says /quit."""
        while (line := self._next(read_line)) is not None and line.strip() != "/quit":
            if line.lstrip().startswith("/"):
                self._command(line.strip())
            elif line.strip():
                self._answer(line.strip())

    def _begin(self) -> None:
        self._conversation = self._client.conversation(**self._options)
        self._attached: list[bytes] = []

    def _next(self, read_line: ReadLine) -> str | None:
        try:
            return read_line()
        except KeyboardInterrupt:
            if not self._interactive:
                raise
            self._screen.text("\n")
            self._screen.note("/quit or Ctrl-D leaves")
            return ""

    def _command(self, line: str) -> None:
        name, _, argument = line.partition(" ")
        if name == "/image":
            self._attach(argument.strip())
        elif name == "/reset":
            self._begin()
        elif name == "/help":
            for text in HELP.splitlines():
                self._screen.note(text)
        else:
            self._fail(f"unknown command {name}; /help lists them")

    def _attach(self, argument: str) -> None:
        path = _path(argument)
        try:
            data = path.read_bytes()
        except OSError as error:
            self._fail(f"cannot read {path}: {error.strerror}")
        else:
            self._attached.append(data)
            size = -(-len(data) // 1000)
            self._screen.note(f"{path.name} ({size} kB) goes with the next message")

    def _answer(self, text: str) -> None:
        attached, self._attached = self._attached, []
        try:
            self._show(attached, text)
        except KeyboardInterrupt:
            self._screen.stopped()
            if not self._interactive:
                raise
        except FromageError as error:
            self._fail(str(error))
        finally:
            self._screen.end_line()

    def _show(self, attached: list[bytes], text: str) -> None:
        """Prints a reply as it comes; leaving early closes the stream, which stops the server."""
        with self._conversation.stream(*attached, text) as events:
            for event in events:
                match event:
                    case TextDelta(text=words):
                        self._screen.text(words)
                    case ImageShown(part=part):
                        self._screen.image(part.image, self._picture(part.image))
                    case MessageEnd(usage=usage) if usage.dropped_turns:
                        self._screen.note(f"[{usage.dropped_turns} oldest turns left out]")

    def _picture(self, image: ImageRef) -> bytes | None:
        """The image's bytes where they would be shown, and are this server's own."""
        if self._screen.painter is None or not image.url.startswith("/"):
            return None
        try:
            return self._client.image(image, size=THUMBNAIL)
        except FromageError:
            return None

    def _fail(self, message: str) -> None:
        self.failed = True
        self._screen.note(f"error: {message}")


def _path(argument: str) -> Path:
    """A path as typed, or as a terminal pastes it: quoted, or with its spaces escaped."""
    typed = Path(argument).expanduser()
    if typed.exists():
        return typed
    try:
        words = shlex.split(argument)
    except ValueError:
        return typed
    return Path(words[0]).expanduser() if len(words) == 1 else typed
