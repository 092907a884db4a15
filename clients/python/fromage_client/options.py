"""The options of a request, as the server names them; absent means the server's default."""

from collections.abc import Mapping
from typing import Any, Literal, TypedDict


class SamplingOptions(TypedDict, total=False):
    """How tokens are chosen and when they stop. `temperature` 0 is greedy."""

    max_tokens: int
    temperature: float
    top_p: float
    top_k: int
    seed: int
    stop: str | list[str]
    ignore_eos: bool
    ret_scale_factor: float
    max_num_rets: int
    max_img_per_ret: int
    min_word_tokens: int
    image_format: Literal["url", "base64"]


class SearchOptions(TypedDict, total=False):
    """Which images may be shown. `min_score` is a cosine in [-1, 1]."""

    collection: str
    min_score: float
    filter: Mapping[str, Any]


class ChatOptions(SamplingOptions, SearchOptions, total=False):
    exclude_shown: bool
    truncation: Literal["error", "oldest_turns"]


class GenerateOptions(SamplingOptions, SearchOptions, total=False):
    exclude_shown: bool
    return_token_ids: bool
    logprobs: int
    return_query_embedding: bool
    reference_compat: bool


class RetrieveOptions(SearchOptions, total=False):
    k: int
    exclude: list[str]
    return_query_embedding: bool


class ScoreOptions(TypedDict, total=False):
    candidates: list[str]
    reference_compat: bool
