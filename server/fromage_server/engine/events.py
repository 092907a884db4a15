"""What a caller hears back, in order. Exactly one FinishEvent or ErrorEvent comes last."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

FinishReason = Literal["stop", "length", "cancelled"]


@dataclass(frozen=True)
class TokenLogprob:
    """Natural logarithms, of the distribution that was sampled from; greedy: of the logits after
    [RET] scaling and masks. ``top``: (token id, logprob), likeliest first, impossible ones left
    out."""

    token_id: int
    logprob: float
    top: tuple[tuple[int, float], ...]


@dataclass(frozen=True)
class TokenEvent:
    """``text`` is what became final with this token: pieces of a character, spaces that the
    tokenizer's clean-up may still take away and possible beginnings of a stop string wait for a
    later event. [RET] has no text."""

    token_id: int
    text: str
    logprob: TokenLogprob | None


@dataclass(frozen=True, eq=False)
class RetEvent:
    """``query`` (E,) float32, unit norm. ``ret_index`` counts the prompt's and the reply's [RET]s
    apart; ``token_index`` is the position in the embedded prompt or among the reply's tokens."""

    ret_index: int
    token_index: int
    query: NDArray[np.float32]
    in_prompt: bool


@dataclass(frozen=True, eq=False)
class ScoreEvent:
    """``logprobs[i]`` is the log-likelihood of ``token_ids[i]`` at ``positions[i]`` of the embedded
    prompt; ``queries`` (n, E) float32, unit norm, in the order asked for."""

    positions: tuple[int, ...]
    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    queries: NDArray[np.float32]


@dataclass(frozen=True)
class Usage:
    """Positions of the prompt (soft tokens included), tokens of the reply ([RET] included), and how
    many of the prompt's positions were known from earlier prompts."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0


@dataclass(frozen=True)
class Timings:
    """Milliseconds since the request came in; ``ttft_ms`` is None where no token was generated."""

    queue_ms: float
    ttft_ms: float | None
    total_ms: float


@dataclass(frozen=True)
class FinishEvent:
    reason: FinishReason
    usage: Usage
    timings: Timings


@dataclass(frozen=True)
class ErrorEvent:
    message: str


Event = TokenEvent | RetEvent | ScoreEvent | FinishEvent | ErrorEvent
