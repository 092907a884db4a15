"""Passes that always have the same shapes."""

from dataclasses import dataclass


@dataclass(frozen=True)
class FixedShapes:
    """Passes that always have as many tokens: ``streams`` of one token each, or one ``piece`` of a
    prompt. A row's numbers then don't depend on what stands beside it."""

    streams: int
    piece: int


@dataclass(frozen=True)
class DecodeShapes:
    """Of DecodeGraphs, where passes of single tokens go through them: up to ``rows`` of them, of
    up to ``pages`` blocks."""

    rows: int
    pages: int
