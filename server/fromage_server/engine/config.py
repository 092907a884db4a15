"""The engine's limits, and its counts."""

from dataclasses import dataclass

from fromage_server.engine.errors import InvalidRequest


@dataclass(frozen=True)
class EngineConfig:
    """``max_batch`` sequences run at once and ``max_queue`` more may wait. ``max_context`` None is
    the model's own. A step starts new prompts until they have ``prefill_tokens`` tokens."""

    max_batch: int = 16
    max_queue: int = 64
    max_context: int | None = None
    prefill_tokens: int = 512

    def __post_init__(self) -> None:
        for name, least in (("max_batch", 1), ("max_queue", 0), ("prefill_tokens", 1)):
            if getattr(self, name) < least:
                raise InvalidRequest(name, getattr(self, name), f"{least} or more")
        if self.max_context is not None and self.max_context < 1:
            raise InvalidRequest("max_context", self.max_context, "1 or more")


@dataclass
class Counts:
    """Since the engine was made."""

    finished: int = 0
    cancelled: int = 0
    failed: int = 0
    steps: int = 0
    prompt_tokens: int = 0
    generated_tokens: int = 0


@dataclass(frozen=True)
class EngineStats:
    """``waiting`` and ``running`` requests and the KV storage as they are now."""

    waiting: int
    running: int
    cache_bytes: int
    counts: Counts
