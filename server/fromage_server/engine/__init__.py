"""Many replies at once from one grounded model. Imports torch and transformers."""

from fromage_server.engine.config import Counts, EngineConfig, EngineStats
from fromage_server.engine.engine import Engine
from fromage_server.engine.errors import (
    DuplicateRequest,
    EngineError,
    EngineStopped,
    InvalidRequest,
    PromptTooLong,
    QueueFull,
)
from fromage_server.engine.events import (
    ErrorEvent,
    Event,
    FinishEvent,
    FinishReason,
    RetEvent,
    ScoreEvent,
    Timings,
    TokenEvent,
    TokenLogprob,
    Usage,
)
from fromage_server.engine.request import GenerationRequest, SamplingParams, ScoringRequest

__all__ = [
    "Counts",
    "DuplicateRequest",
    "Engine",
    "EngineConfig",
    "EngineError",
    "EngineStats",
    "EngineStopped",
    "ErrorEvent",
    "Event",
    "FinishEvent",
    "FinishReason",
    "GenerationRequest",
    "InvalidRequest",
    "PromptTooLong",
    "QueueFull",
    "RetEvent",
    "SamplingParams",
    "ScoreEvent",
    "ScoringRequest",
    "Timings",
    "TokenEvent",
    "TokenLogprob",
    "Usage",
]
