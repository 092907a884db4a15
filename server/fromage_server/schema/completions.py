"""The body of POST /v1/chat/completions: OpenAI's fields, and this server's own beside them."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from pydantic import (
    AfterValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)

from fromage_server.schema.base import STOP_AT_FIRST, RequestModel, only, without_nulls
from fromage_server.schema.options import MAX_TOKENS_LIMIT, MAX_TOP_LOGPROBS, SEEDS, ChatOptions
from fromage_server.schema.parts import ImageRef, ImageUrl, Parts

ImageDelivery = Literal["field", "markdown", "both", "none"]
MAX_CHOICES: Final = 128
_NOT_USED: Final = "OpenAI's. Known and not used."
_NO_TOOLS: Final = "this server calls no tools"
_NO_PENALTY: Final = "this server has no penalties"
_NO_AUDIO: Final = "this server takes and makes no audio"


class NullableModel(RequestModel):
    """null stands for a field that is left out, as in OpenAI's API."""

    @model_validator(mode="before")
    @classmethod
    def _drop_nulls(cls, value: object) -> object:
        return without_nulls(value)


class ShownDetails(NullableModel):
    """What a reply says of a picture beside its address. `collection`, `id`, `ret_index` and
    `text_offset` are used when it is sent back, the rest is known."""

    collection: str | None = None
    id: str | None = None
    ret_index: int | None = None
    text_offset: int | None = Field(default=None, ge=0)
    key: Any = None
    score: Any = None
    width: Any = None
    height: Any = None
    metadata: Any = None

    @property
    def ref(self) -> ImageRef | None:
        if self.collection is None or self.id is None:
            return None
        return ImageRef(collection=self.collection, id=self.id)


class ShownImage(NullableModel):
    """A picture of an earlier reply, sent back."""

    type: Literal["image_url"] = "image_url"
    image_url: ImageUrl
    index: int | None = None
    fromage: ShownDetails = Field(default_factory=ShownDetails)


class CompletionMessage(NullableModel):
    role: Literal["system", "developer", "user", "assistant"] = Field(
        description="`developer` is another word for `system`."
    )
    content: Parts = Field(
        default_factory=list,
        description="Text, or parts in order. In an assistant's text, markdown images stand for "
        "the [RET] that brought them.",
    )
    images: Annotated[list[ShownImage], STOP_AT_FIRST] = Field(
        default_factory=list,
        max_length=1024,
        description="An assistant's pictures, as the reply brought them.",
    )
    name: Any = Field(default=None, description=_NOT_USED)
    refusal: Any = Field(default=None, description=_NOT_USED)
    annotations: Any = Field(default=None, description=_NOT_USED)
    reasoning_content: Any = Field(default=None, description="LiteLLM's. Known and not used.")
    provider_specific_fields: Any = Field(
        default=None, description="LiteLLM's. Known and not used."
    )
    audio: Annotated[Any, AfterValidator(only(why=_NO_AUDIO))] = None
    tool_calls: Annotated[Any, AfterValidator(only([], why=_NO_TOOLS))] = None
    function_call: Annotated[Any, AfterValidator(only(why=_NO_TOOLS))] = None

    @model_validator(mode="after")
    def _assistants_show(self) -> CompletionMessage:
        if self.images and self.role != "assistant":
            raise ValueError(f"`images` belong to an assistant's message, not to a {self.role}'s")
        return self


class StreamOptions(NullableModel):
    include_usage: bool = Field(
        default=False, description="One more chunk, before [DONE], with the usage and no choices."
    )
    include_obfuscation: Any = Field(default=None, description=_NOT_USED)


class CompletionRequest(ChatOptions, NullableModel):
    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "model": "demo",
                    "messages": [{"role": "user", "content": "show me an elephant"}],
                    "stream": True,
                    "stream_options": {"include_usage": True},
                },
                {
                    "model": "demo",
                    "messages": [{"role": "user", "content": "show me a dog"}],
                    "n": 2,
                    "temperature": 1.0,
                    "seed": 7,
                    "logprobs": True,
                    "top_logprobs": 3,
                    "image_delivery": "markdown",
                },
            ]
        }
    )

    model: str = Field(description="The served model's name; GET /v1/models says it.")
    messages: Annotated[list[CompletionMessage], STOP_AT_FIRST] = Field(
        min_length=1, max_length=4096, description="The history; the last message is the user's."
    )
    max_completion_tokens: int | None = Field(
        default=None, ge=1, le=MAX_TOKENS_LIMIT, description="The newer name of `max_tokens`."
    )
    n: int = Field(
        default=1,
        ge=1,
        le=MAX_CHOICES,
        description="Replies to the same messages. With a seed they use it and those after it; "
        "greedy ones (temperature 0, the default) are equal.",
    )
    seed: int | None = Field(
        default=None,
        ge=-SEEDS,
        lt=SEEDS,
        description="The same seed gives the same reply. Default: random.",
    )
    top_p: float = Field(
        default=1.0,
        ge=0,
        le=1,
        description="Sample from the likeliest tokens that add up to this; 0 is greedy.",
    )
    logprobs: bool = Field(
        default=False, description="Say how likely each token was, [RET] and the end included."
    )
    top_logprobs: int = Field(
        default=0,
        ge=0,
        le=MAX_TOP_LOGPROBS,
        description="With this many likeliest tokens at each place; needs `logprobs`.",
    )
    stream_options: StreamOptions = Field(
        default_factory=StreamOptions, description="What a stream says beside the reply."
    )
    image_delivery: ImageDelivery | None = Field(
        default=None,
        description="Where pictures come: in `message.images` and `delta.images` (field), in the "
        "text as `![caption](address)` (markdown), in both, or not at all (none). Default: the "
        "server's setting.",
    )
    # What cannot be followed: taken where it changes nothing.
    frequency_penalty: Annotated[float, AfterValidator(only(0, why=_NO_PENALTY))] = Field(
        default=0, description="0."
    )
    presence_penalty: Annotated[float, AfterValidator(only(0, why=_NO_PENALTY))] = Field(
        default=0, description="0."
    )
    logit_bias: Annotated[Any, AfterValidator(only({}, why="this server biases no logits"))] = (
        Field(default=None, description="Empty.")
    )
    tools: Annotated[Any, AfterValidator(only([], why=_NO_TOOLS))] = Field(
        default=None, description="Empty."
    )
    tool_choice: Annotated[Any, AfterValidator(only("none", "auto", why=_NO_TOOLS))] = Field(
        default=None, description="`none` or `auto`."
    )
    functions: Annotated[Any, AfterValidator(only([], why=_NO_TOOLS))] = Field(
        default=None, description="Empty."
    )
    function_call: Annotated[Any, AfterValidator(only("none", "auto", why=_NO_TOOLS))] = Field(
        default=None, description="`none` or `auto`."
    )
    response_format: Annotated[
        Any, AfterValidator(only({"type": "text"}, why="this server's replies are free text"))
    ] = Field(default=None, description='`{"type": "text"}`.')
    modalities: Annotated[
        Any,
        AfterValidator(only(["text"], ["text", "image"], ["image", "text"], why=_NO_AUDIO)),
    ] = Field(default=None, description="Text, with or without image.")
    audio: Annotated[Any, AfterValidator(only(why=_NO_AUDIO))] = Field(
        default=None, description="Left out."
    )
    web_search_options: Annotated[
        Any, AfterValidator(only(why="this server searches its collections alone"))
    ] = Field(default=None, description="Left out.")
    reasoning_effort: Annotated[
        Any, AfterValidator(only("none", why="this server's models do not reason"))
    ] = Field(default=None, description="`none`.")
    verbosity: Annotated[
        Any, AfterValidator(only("medium", why="this server's models have one verbosity"))
    ] = Field(default=None, description="`medium`.")
    service_tier: Annotated[
        Any, AfterValidator(only("auto", "default", why="this server has one tier"))
    ] = Field(default=None, description="`auto` or `default`.")
    store: Annotated[Any, AfterValidator(only(False, why="this server stores no replies"))] = Field(
        default=None, description="false."
    )
    metadata: Any = Field(default=None, description=_NOT_USED)
    parallel_tool_calls: Any = Field(default=None, description=_NOT_USED)
    prediction: Any = Field(default=None, description=_NOT_USED)
    prompt_cache_key: Any = Field(default=None, description=_NOT_USED)
    prompt_cache_retention: Any = Field(default=None, description=_NOT_USED)
    safety_identifier: Any = Field(default=None, description=_NOT_USED)
    user: Any = Field(default=None, description=_NOT_USED)

    @field_validator("max_completion_tokens")
    @classmethod
    def _one_length(cls, value: int | None, info: ValidationInfo) -> int | None:
        older = info.data.get("max_tokens")
        if older is not None and older != value:
            raise ValueError(f"max_tokens is its older name, and is {older}; send one of them")
        return value

    @field_validator("top_logprobs")
    @classmethod
    def _need_logprobs(cls, value: int, info: ValidationInfo) -> int:
        if value and not info.data.get("logprobs"):
            raise ValueError("needs `logprobs` to be true")
        return value
