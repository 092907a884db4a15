"""What can be asked of a reply beside its prompt."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from pydantic import BeforeValidator, Field, StringConstraints

from fromage_server.schema.base import STOP_AT_FIRST, RequestModel, Text

DEFAULT_MAX_TOKENS = 256
DEFAULT_MAX_RETS = 4
MAX_TOKENS_LIMIT = 131_072
MAX_TOKENS_TEXT = (
    f"Most tokens to generate. Default: {DEFAULT_MAX_TOKENS}, less where the context is full. "
    "The model's context is a further limit."
)

ONE_OR_MORE = BeforeValidator(
    lambda value: [value] if isinstance(value, str) else value,
    json_schema_input_type=str | list[str],
)
SEEDS: Final = 2**63  # from 0 to this, excluded
StopString = Annotated[Text, StringConstraints(min_length=1, max_length=64)]
MAX_TOP_LOGPROBS: Final = 20
Logprobs = Annotated[
    int | None,
    Field(
        ge=0,
        le=MAX_TOP_LOGPROBS,
        description="Add `logprobs`, of the distribution sampled from, with this many likeliest "
        "tokens each. Default: none.",
    ),
    BeforeValidator(lambda value: (1 if value else None) if isinstance(value, bool) else value),
]
FILTER_EXAMPLE = {"license": "CC BY-SA 4.0", "count": {"gte": 2, "lt": 4}}


class RetrievalOptions(RequestModel):
    """Where the pictures come from."""

    collection: str | None = Field(
        default=None,
        description="Which collection [RET] searches. Default: the server's first one.",
    )
    min_score: float | None = Field(
        default=None,
        ge=-1,
        le=1,
        description="Least cosine that a picture must reach. Default: any.",
    )
    filter: dict[str, Any] | None = Field(
        default=None,
        description='Conditions on the metadata: {"field": value | {"in": […]} | '
        '{"gte": …, "lt": …}}. Default: none.',
        examples=[FILTER_EXAMPLE],
    )


class GenerationOptions(RetrievalOptions):
    """Every option that chat and generate share."""

    temperature: float = Field(default=0.0, ge=0, le=2, description="0 is greedy.")
    top_p: float = Field(
        default=1.0, gt=0, le=1, description="Sample from the likeliest tokens that add up to this."
    )
    top_k: int = Field(
        default=0, ge=0, le=1_000_000, description="Sample from this many; 0: from all."
    )
    seed: int | None = Field(
        default=None,
        ge=0,
        lt=SEEDS,
        description="The same seed gives the same reply. Default: random.",
    )
    stop: Annotated[list[StopString], STOP_AT_FIRST, ONE_OR_MORE] = Field(
        default_factory=list,
        max_length=16,
        description="The reply ends before any of these strings (1 to 64 characters each, or one "
        "string alone). A chat also stops where the model's chat template says.",
    )
    ignore_eos: bool = Field(default=False, description="Go on after the end-of-text token.")
    stream: bool = Field(default=False, description="Answer with server-sent events.")
    ret_scale_factor: float = Field(
        default=1.0,
        ge=0,
        le=100,
        description="[RET]'s logit is multiplied by this before sampling.",
    )
    max_num_rets: int = Field(
        default=DEFAULT_MAX_RETS,
        ge=0,
        le=64,
        description="Most [RET]s (places with pictures) in a reply.",
    )
    max_img_per_ret: int = Field(default=1, ge=1, le=16, description="Most pictures at one place.")
    min_word_tokens: int = Field(
        default=0,
        ge=0,
        le=4096,
        description="Words that must come before the first [RET] or the end.",
    )
    image_format: Literal["url", "base64"] = Field(
        default="url", description="How a reply brings pictures: by address, or as small data URIs."
    )


class ChatOptions(GenerationOptions):
    """What a chat adds to them."""

    max_tokens: int | None = Field(
        default=None, ge=1, le=MAX_TOKENS_LIMIT, description=MAX_TOKENS_TEXT
    )
    exclude_shown: bool = Field(
        default=True, description="Don't show a picture that the history has already shown."
    )
    truncation: Literal["error", "oldest_turns"] = Field(
        default="error",
        description="When the history is longer than the context: refuse, or leave out the oldest "
        "turns (usage.dropped_turns says how many).",
    )
