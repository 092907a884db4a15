"""Text and pictures, shown: as HTML in a notebook, as text elsewhere.

What a model or an image's owner wrote is text here, never markup: everything is escaped.
"""

import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from html import escape
from typing import Any

from .errors import FromageError
from .pictures import content_type, data_url
from .printable import one_line, printable


@dataclass(frozen=True)
class Figure:
    """A picture, its label and its address; `load` gets its bytes, where they are to be put into
    the page. Sizes in pixels."""

    label: str
    address: str
    width: int | None
    height: int | None
    load: Callable[[], bytes] | None


class Rich(ABC):
    """Shows itself: `show()`, `print`, or as the value of a notebook's cell."""

    @abstractmethod
    def _pieces(self) -> Iterable[str | Figure]:
        """What there is to see, in order."""

    def show(self) -> None:
        """In a notebook with its pictures; elsewhere printed, pictures as their addresses."""
        ipython = sys.modules.get("IPython")
        if ipython is not None and ipython.get_ipython() is not None:
            ipython.display.display(self)
        else:
            print(self)

    def __str__(self) -> str:
        lines = (_as_text(piece) for piece in self._pieces())
        return "\n".join(line for line in lines if line)

    def _repr_html_(self) -> str:
        return "<div>" + "".join(_as_html(piece) for piece in self._pieces()) + "</div>"

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        """What IPython asks for; it picks from the two itself."""
        return {"text/plain": str(self), "text/html": self._repr_html_()}


def _as_text(piece: str | Figure) -> str:
    if isinstance(piece, str):
        return printable(piece).strip("\n")
    address = one_line(piece.address, 2000)
    return f"[image: {one_line(piece.label)}] {address}"


def _as_html(piece: str | Figure) -> str:
    if isinstance(piece, str):
        return f'<p style="white-space: pre-wrap">{escape(piece)}</p>' if piece.strip() else ""
    known = piece.width and piece.height
    size = f' width="{piece.width}" height="{piece.height}"' if known else ""
    label = escape(one_line(piece.label))
    return (
        '<figure style="display: inline-block; margin: 0 1em 1em 0">'
        f'<img src="{escape(_source(piece))}" alt="{label}"{size}'
        ' style="max-width: 100%; max-height: 20em; width: auto; height: auto">'
        f"<figcaption>{label}</figcaption></figure>"
    )


def _source(figure: Figure) -> str:
    """The picture itself, so that it stays in a saved notebook; its address where it can't be had.
    An address that is no web page's is left out."""
    data = b""
    if figure.load is not None:
        with suppress(FromageError):
            data = figure.load()
    if content_type(data).startswith("image/"):
        return data_url(data)
    return figure.address if figure.address.startswith(("http://", "https://")) else ""
