"""The history that goes with every message, and what waits to be sent with the next one."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ..reply import Part, assistant_message


class Conversation:
    def __init__(self) -> None:
        self.messages: list[dict[str, Any]] = []
        self._attached: list[bytes] = []

    def attach(self, path: Path) -> int:
        """Adds a file to the next message; its size in bytes. Raises OSError."""
        data = path.read_bytes()
        self._attached.append(data)
        return len(data)

    def ask(self, text: str) -> None:
        """The user's next message: the images attached so far, then the text."""
        self.messages.append({"role": "user", "content": [*self._attached, text]})
        self._attached = []

    def answer(self, parts: Iterable[Part]) -> None:
        """What came back, whole or cut off. Nothing at all takes the question back too."""
        message = assistant_message(parts)
        if message["content"]:
            self.messages.append(message)
        else:
            self.messages.pop()

    def reset(self) -> None:
        self.messages = []
        self._attached = []
