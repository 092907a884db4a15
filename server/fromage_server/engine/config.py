"""The engine's limits, and its counts."""

from dataclasses import dataclass

from fromage_server.engine.errors import InvalidRequest


@dataclass(frozen=True)
class EngineConfig:
    """``max_batch`` sequences run at once and ``max_queue`` more may wait. ``max_context`` None is
    the model's own. A step computes ``prefill_tokens`` tokens of prompts at most, and mostly fewer
    while others stream; None for what suits the device. ``kv_cache_bytes``: the storage for keys
    and values; None for as much as ``max_batch`` whole contexts need, within what the device has to
    spare."""

    max_batch: int = 16
    max_queue: int = 64
    max_context: int | None = None
    prefill_tokens: int | None = None
    kv_cache_bytes: int | None = None
    deterministic: bool = False

    def step_tokens(self, device_type: str) -> int:
        """Of prompts at most: a GPU launches the kernels of many in the time of a few."""
        return self.prefill_tokens or (2048 if device_type == "cuda" else 512)

    def __post_init__(self) -> None:
        for name, least in (("max_batch", 1), ("max_queue", 0), ("prefill_tokens", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise InvalidRequest(name, getattr(self, name), f"{least} or more")
        if self.kv_cache_bytes is not None and self.kv_cache_bytes < 1:
            raise InvalidRequest("kv_cache_bytes", self.kv_cache_bytes, "1 or more")
        if self.max_context is not None and self.max_context < 1:
            raise InvalidRequest("max_context", self.max_context, "1 or more")


@dataclass
class Counts:
    """Since the engine was made."""

    finished: int = 0
    cancelled: int = 0
    failed: int = 0
    preempted: int = 0
    steps: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    generated_tokens: int = 0


@dataclass(frozen=True)
class EngineStats:
    """``waiting`` and ``running`` requests and the KV storage as they are now: blocks that somebody
    holds, blocks that the prefix cache knows (held or not), and all."""

    waiting: int
    running: int
    cache_bytes: int
    used_blocks: int
    cached_blocks: int
    blocks: int
    counts: Counts
