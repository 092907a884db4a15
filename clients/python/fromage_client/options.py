"""The options of a request, as the server names them. What isn't given is the server's default."""

from collections.abc import Mapping
from typing import Any, Literal, TypedDict


class SamplingOptions(TypedDict, total=False):
    """How tokens are chosen and when they stop."""

    max_tokens: int
    """Most tokens to generate. Default: 256, less where the context is full."""
    temperature: float
    """0 (the default) takes the likeliest token each time, up to 2."""
    top_p: float
    """Sample from the likeliest tokens that add up to this. Default: 1."""
    top_k: int
    """Sample from this many. Default: 0, from all."""
    seed: int
    """The same seed gives the same reply."""
    stop: str | list[str]
    """The reply ends before any of these strings."""
    ignore_eos: bool
    """Go on after the end-of-text token. Default: False."""
    ret_scale_factor: float
    """[RET]'s logit is multiplied by this: more than 1 brings more images. Default: 1."""
    max_num_rets: int
    """Most places with images in a reply."""
    max_img_per_ret: int
    """Most images at one place. Default: 1."""
    min_word_tokens: int
    """Words that must come before the first image or the end. Default: 0."""
    image_format: Literal["url", "base64"]
    """Images by address (the default), or as small `data:` URLs."""
    logprobs: int
    """Add each token's log-probability, with this many likeliest tokens."""


class SearchOptions(TypedDict, total=False):
    """Which images may be shown."""

    collection: str
    """The collection that is searched. Default: the server's first."""
    min_score: float
    """Only images of at least this cosine, in [-1, 1]. Default: all."""
    filter: Mapping[str, Any]
    """Only images whose metadata says so: `{"field": value}`, `{"field": {"in": [...]}}`,
    `{"field": {"gte": ..., "lt": ...}}`."""


class ChatOptions(SamplingOptions, SearchOptions, total=False):
    """The options of `chat`, `stream` and conversations, with those of sampling and search."""

    exclude_shown: bool
    """Don't show an image that the history has shown. Default: True."""
    truncation: Literal["error", "oldest_turns"]
    """A history longer than the context is refused (the default), or its oldest turns left out."""


class GenerateOptions(SamplingOptions, SearchOptions, total=False):
    """The options of `generate`, with those of sampling and search. `max_tokens` may be 0: the
    prompt's own [RET]s are read."""

    exclude_shown: bool
    """Don't show an image that the prompt refers to. Default: False."""
    return_token_ids: bool
    """Add `token_ids`, all generated ids."""
    return_query_embedding: bool
    """Add the unit-norm query beside each image."""
    reference_compat: bool
    """Behave exactly as the reference code's generation function."""


class RetrieveOptions(SearchOptions, total=False):
    """The options of `retrieve`, with those of search."""

    k: int
    """How many images, up to 1000. Default: 10."""
    exclude: list[str]
    """Ids that must not come back."""
    return_query_embedding: bool
    """Add the unit-norm query."""


class ScoreOptions(TypedDict, total=False):
    """The options of `score`."""

    candidates: list[str]
    """Continuations to score. Default: the prompt itself is scored."""
    reference_compat: bool
    """Score as the reference's evaluation script does."""
