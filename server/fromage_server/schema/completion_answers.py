"""The body of a chat completion, as /docs shows it."""

from __future__ import annotations

from typing import Any, Final, Literal

from pydantic import ConfigDict, Field

from fromage_server.schema.base import AnswerModel

_ENTRY: Final[dict[str, Any]] = {
    "type": "image_url",
    "image_url": {"url": "http://localhost:8000/v1/images/demo/5f2b8c1d9e0a47b3c6d1"},
    "index": 0,
    "fromage": {
        "id": "5f2b8c1d9e0a47b3c6d1",
        "collection": "demo",
        "key": "1-elephant-green.png",
        "score": 0.71,
        "width": 240,
        "height": 240,
        "metadata": {"caption": "an elephant on a green background", "count": 1},
        "ret_index": 0,
        "text_offset": 19,
    },
}
_EXAMPLE: Final[dict[str, Any]] = {
    "id": "chatcmpl-8f3a",
    "object": "chat.completion",
    "created": 1795000000,
    "model": "demo",
    "choices": [
        {
            "index": 0,
            "message": {
                "role": "assistant",
                "content": "here is an elephant\n\n![an elephant on a green background]"
                "(http://localhost:8000/v1/images/demo/5f2b8c1d9e0a47b3c6d1)",
                "refusal": None,
                "images": [_ENTRY],
            },
            "logprobs": None,
            "finish_reason": "stop",
        }
    ],
    "usage": {
        "prompt_tokens": 9,
        "completion_tokens": 6,
        "total_tokens": 15,
        "prompt_tokens_details": {"cached_tokens": 0},
        "images_in": 0,
        "images_out": 1,
        "dropped_turns": 0,
    },
}
_HEAD: Final = '{"id":"chatcmpl-8f3a","object":"chat.completion.chunk","created":1795000000,'
_CHUNK: Final = _HEAD + '"model":"demo","choices":[{"index":0,"delta":'
_REST: Final = ',"logprobs":null,"finish_reason":null}]}'
STREAM_EXAMPLE: Final = f"""\
data: {_CHUNK}{{"role":"assistant","content":""}}{_REST}

data: {_CHUNK}{{"content":"here is an elephant"}}{_REST}

data: {_CHUNK}{{"images":[{{"type":"image_url","image_url":{{"url":\
"http://localhost:8000/v1/images/demo/5f2b8c1d9e0a47b3c6d1"}},"index":0}}]}}{_REST}

data: {_CHUNK}{{"content":"\\n\\n![an elephant on a green background]\
(http://localhost:8000/v1/images/demo/5f2b8c1d9e0a47b3c6d1)"}}{_REST}

data: {_CHUNK}{{}},"logprobs":null,"finish_reason":"stop"}}]}}

data: [DONE]

"""


class ImageAddress(AnswerModel):
    url: str = Field(description="Absolute, or a data URI.")


class CompletionImageDetails(AnswerModel):
    id: str = Field(description="The index's own name.")
    collection: str
    key: str = Field(description="Its owner's name for it: a path, an address, a file name.")
    score: float = Field(description="Cosine, from -1 to 1.")
    width: int | None
    height: int | None
    metadata: dict[str, Any]
    ret_index: int = Field(description="Which [RET] of the reply brought it.")
    text_offset: int = Field(description="Characters of the content before its place.")


class CompletionImage(AnswerModel):
    type: Literal["image_url"] = "image_url"
    image_url: ImageAddress
    index: int = Field(description="Its place among the message's pictures.")
    fromage: CompletionImageDetails = Field(description="What this server adds to the form.")


class CompletionAnswerMessage(AnswerModel):
    role: Literal["assistant"] = "assistant"
    content: str
    refusal: None = None
    images: list[CompletionImage] | None = Field(
        default=None, description="Left out where there are none, or `image_delivery` says so."
    )


class CompletionTopToken(AnswerModel):
    token: str
    logprob: float = Field(description="Of the distribution sampled from.")
    bytes: list[int] | None = Field(description="null for a piece of a character.")


class CompletionToken(CompletionTopToken):
    top_logprobs: list[CompletionTopToken]


class CompletionLogprobs(AnswerModel):
    content: list[CompletionToken]
    refusal: None = None


class CompletionChoice(AnswerModel):
    index: int
    message: CompletionAnswerMessage
    logprobs: CompletionLogprobs | None
    finish_reason: Literal["stop", "length"]


class PromptTokensDetails(AnswerModel):
    cached_tokens: int


class CompletionUsage(AnswerModel):
    """The prompt counts once; the rest is summed over the choices."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails
    images_in: int
    images_out: int
    dropped_turns: int


class CompletionAnswer(AnswerModel):
    model_config = ConfigDict(json_schema_extra={"examples": [_EXAMPLE]})

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int = Field(description="Unix time in seconds.")
    model: str
    choices: list[CompletionChoice]
    usage: CompletionUsage
