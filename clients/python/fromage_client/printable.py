"""Text from a model or from metadata, made safe to print."""

import unicodedata

_BIDI = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
"""Reorders what stands around it, so a label could show another address than it links to."""


def printable(text: str) -> str:
    """`text` without anything a terminal obeys: control characters other than newline and tab."""
    return "".join(c for c in text if c in "\n\t" or not _obeyed(c))


def one_line(text: str, limit: int = 200) -> str:
    """`text` made printable, on one line of at most `limit` characters."""
    line = " ".join(printable(text).split())
    return line if len(line) <= limit else line[: limit - 1] + "…"


def _obeyed(character: str) -> bool:
    return unicodedata.category(character) in ("Cc", "Cs") or character in _BIDI
