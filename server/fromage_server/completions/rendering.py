"""One reply's events as the deltas of a choice: what clients show for text and for a picture."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Final

from fromage_server.reply import ImageShown, TextDelta
from fromage_server.schema.completions import ImageDelivery

Json = dict[str, Any]
_ALT_LENGTH: Final = 120
_ESCAPED: Final = {"(": "%28", ")": "%29", "<": "%3C", ">": "%3E", '"': "%22"}


class Rendering:
    """``base`` stands in front of the addresses of this server's own pictures."""

    def __init__(self, delivery: ImageDelivery, base: str) -> None:
        self._field = delivery in ("field", "both")
        self._markdown = delivery in ("markdown", "both")
        self._base = base
        self._length = 0  # of the content so far, in characters
        self._images = 0
        self._ret_index: int | None = None  # of the pictures that the content ends in

    def deltas(self, event: TextDelta | ImageShown) -> Iterator[Json]:
        """Their contents, joined, and their images, one after another, are the message's."""
        match event:
            case TextDelta(_, text, _):
                yield self._content(text if self._ret_index is None else f"\n\n{text}")
                self._ret_index = None
            case ImageShown(_, part):
                url = self._address(part["image"]["url"])
                if self._field:
                    yield {"images": [self._entry(part, url)]}
                if self._markdown:
                    yield self._content(self._break(part["ret_index"]) + markdown(part, url))
                    self._ret_index = part["ret_index"]

    def _content(self, text: str) -> Json:
        self._length += len(text)
        return {"content": text}

    def _break(self, ret_index: int) -> str:
        """A line for each picture, a paragraph for each [RET]'s."""
        if self._length == 0:
            return ""
        return "\n" if ret_index == self._ret_index else "\n\n"

    def _entry(self, part: Json, url: str) -> Json:
        image = {name: value for name, value in part["image"].items() if name != "url"}
        self._images += 1
        return {
            "type": "image_url",
            "image_url": {"url": url},
            "index": self._images - 1,
            "fromage": {**image, "ret_index": part["ret_index"], "text_offset": self._length},
        }

    def _address(self, url: str) -> str:
        return self._base + url if url.startswith("/") else url


def markdown(part: Json, url: str) -> str:
    caption = part["image"]["metadata"].get("caption")
    words = caption if isinstance(caption, str) and caption.strip() else part["image"]["key"]
    alt = re.sub(r"([\[\]\\])", r"\\\1", " ".join(words.split())[:_ALT_LENGTH])
    # An address holds no space; brackets in it would end it.
    plain = "".join(_ESCAPED.get(c, c) for c in url.replace(" ", "%20"))
    return f"![{alt}]({plain})"
