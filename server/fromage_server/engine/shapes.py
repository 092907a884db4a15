"""Passes that always have the same shapes."""

from __future__ import annotations

from dataclasses import dataclass

from fromage_server.engine.attention import BLOCK_SIZE
from fromage_server.engine.config import EngineConfig


@dataclass(frozen=True)
class FixedShapes:
    """Passes that always have as many tokens: ``streams`` of one token each, or one ``piece`` of a
    prompt. A row's numbers then don't depend on what stands beside it."""

    streams: int
    piece: int


@dataclass(frozen=True)
class DecodeShapes:
    """Of recorded passes, where steps go through them: single tokens, up to ``rows`` of them, of up
    to ``pages`` blocks, and with pieces of prompts among them ``tokens`` (0: there are none)."""

    rows: int
    pages: int
    tokens: int = 0

    @classmethod
    def of(cls, config: EngineConfig, context: int, device_type: str) -> DecodeShapes:
        """All that a step may have, of texts of up to ``context`` positions."""
        most = config.max_batch + config.step_tokens(device_type)
        return cls(config.max_batch, -(-context // BLOCK_SIZE), most)
