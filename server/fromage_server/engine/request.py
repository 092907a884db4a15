"""What can be asked of the engine: a reply, or the likelihood of a text."""

import math
from dataclasses import dataclass

from fromage_server.engine.errors import InvalidRequest
from fromage_weights.grounded import Segment


@dataclass(frozen=True)
class SamplingParams:
    """How one reply is generated.

    temperature 0 is greedy. ``top_k`` 0 and ``top_p`` 1 filter nothing. ``ret_scale_factor``
    multiplies the raw logit of [RET]. After ``max_num_rets`` [RET]s that token is impossible;
    before ``min_word_tokens`` other tokens, [RET] and the end token are. ``logprobs``: how many
    alternatives to report with each token, None for no log-probabilities at all.
    ``stop_after_ret``: the first [RET] ends the reply, and still brings its query.
    ``compat`` is the reference's loop: exactly ``max_tokens`` steps, neither end token nor stop
    strings end it, no mask after ``max_num_rets``, and a [RET] in the very last place has no query.
    """

    max_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    ignore_eos: bool = False
    ret_scale_factor: float = 1.0
    max_num_rets: int | None = None
    min_word_tokens: int = 0
    logprobs: int | None = None
    stop_after_ret: bool = False
    compat: bool = False

    def __post_init__(self) -> None:
        _check("max_tokens", self.max_tokens, self.max_tokens >= 0, "0 or more")
        _check("temperature", self.temperature, 0 <= self.temperature < math.inf, "0 or more")
        _check("top_p", self.top_p, 0 < self.top_p <= 1, "above 0, at most 1")
        _check("top_k", self.top_k, self.top_k >= 0, "0 (no limit) or more")
        _check("stop", self.stop, all(self.stop), "strings that are not empty")
        _check(
            "ret_scale_factor",
            self.ret_scale_factor,
            math.isfinite(self.ret_scale_factor),
            "a finite number",
        )
        _check("min_word_tokens", self.min_word_tokens, self.min_word_tokens >= 0, "0 or more")
        for name in ("max_num_rets", "logprobs"):
            value = getattr(self, name)
            _check(name, value, value is None or value >= 0, "0 or more")


@dataclass(frozen=True)
class GenerationRequest:
    """``prompt_ret_positions``: positions in the embedded prompt (an image takes
    ``n_visual_tokens`` of them) whose query embeddings are wanted before the reply; they come
    as they are computed, and each says which it is. ``arrived`` (``time.perf_counter``): when the
    timings begin; None for submission."""

    id: str
    segments: tuple[Segment, ...]
    params: SamplingParams
    prompt_ret_positions: tuple[int, ...] = ()
    arrived: float | None = None


@dataclass(frozen=True)
class ScoringRequest:
    """One pass over a prompt, nothing generated.

    ``query_positions``: where query embeddings are wanted. ``score_from``: log-likelihoods of the
    text tokens at this position and after it; None for none, 0 for the whole prompt, whose first
    position nothing predicts. ``shifted=False`` reads the logits at the token's own position, as
    the reference's evaluation script of visual dialogue does.
    """

    id: str
    segments: tuple[Segment, ...]
    query_positions: tuple[int, ...] = ()
    score_from: int | None = None
    shifted: bool = True
    arrived: float | None = None


def _check(field: str, value: object, holds: bool, allowed: str) -> None:
    if not holds:
        raise InvalidRequest(field, value, allowed)
