"""The bodies of the answers, as /docs shows them."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from pydantic import ConfigDict, Field

from fromage_server.schema.base import AnswerModel

# Four images and their metadata fit into one frame of a stream.
METADATA_BYTES: Final = 3750
FinishReason = Literal["stop", "length", "cancelled", "error"]

_IMAGE: Final[dict[str, Any]] = {
    "id": "5f2b8c1d9e0a47b3c6d1",
    "collection": "demo",
    "key": "1-elephant-green.png",
    "url": "/v1/images/demo/5f2b8c1d9e0a47b3c6d1",
    "score": 0.71,
    "width": 240,
    "height": 240,
    "metadata": {"caption": "an elephant on a green background", "count": 1},
}
_CONTENT: Final[list[dict[str, Any]]] = [
    {"type": "text", "text": "here is an elephant"},
    {"type": "image", "ret_index": 0, "image": _IMAGE, "alternatives": []},
]
_ENDING: Final[dict[str, Any]] = {
    "finish_reason": "stop",
    "usage": {
        "prompt_tokens": 9,
        "completion_tokens": 6,
        "total_tokens": 15,
        "cached_tokens": 0,
        "images_in": 0,
        "images_out": 1,
        "dropped_turns": 0,
    },
    "timings": {"queue_ms": 0.2, "ttft_ms": 9.1, "total_ms": 31.8},
}
_TOKEN: Final[dict[str, Any]] = {"token_id": 41, "token": " here", "logprob": -0.02}


def _example(**values: Any) -> ConfigDict:
    return ConfigDict(json_schema_extra={"examples": [values]})


class AnswerText(AnswerModel):
    type: Literal["text"] = "text"
    text: str


class StoredImage(AnswerModel):
    """An image as a collection lists it."""

    id: str = Field(description="The index's own name.")
    collection: str
    key: str = Field(description="Its owner's name for it: a path, an address, a file name.")
    url: str = Field(description="Where to get it; relative to this server, or a data URI.")
    width: int | None = Field(description="null where only an address is known.")
    height: int | None
    metadata: dict[str, Any] = Field(description="What its owner says of it.")


class Image(StoredImage):
    """An image as replies show it."""

    score: float = Field(description="Cosine, from -1 to 1.")
    metadata: dict[str, Any] = Field(
        description=f"What its owner says of it; the first fields, where they have more than "
        f"{METADATA_BYTES:,} bytes as JSON."
    )


class AnswerImage(AnswerModel):
    type: Literal["image"] = "image"
    ret_index: int = Field(description="Which [RET] of the reply brought it.")
    image: Image
    alternatives: list[Image] = Field(
        description="The next best, not shown; with the first image of a [RET] only."
    )
    query_embedding: list[float] | None = None


AnswerPart = Annotated[AnswerText | AnswerImage, Field(discriminator="type")]


class Usage(AnswerModel):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    cached_tokens: int
    images_in: int
    images_out: int
    dropped_turns: int


class Timings(AnswerModel):
    queue_ms: float
    ttft_ms: float | None
    total_ms: float


class TopToken(AnswerModel):
    token_id: int
    token: str
    logprob: float


class TokenLogprob(TopToken):
    top: list[TopToken]


class Ending(AnswerModel):
    """What a JSON answer and the last event of a stream have in common."""

    finish_reason: FinishReason
    usage: Usage
    timings: Timings
    token_ids: list[int] | None = None
    logprobs: list[TokenLogprob] | None = None


class AnswerMessage(AnswerModel):
    role: Literal["assistant"] = "assistant"
    content: list[AnswerPart]


class ChatAnswer(Ending):
    model_config = _example(
        id="chat_8f3a", model="demo", message={"role": "assistant", "content": _CONTENT}, **_ENDING
    )

    id: str
    model: str
    message: AnswerMessage


class GenerateAnswer(Ending):
    model_config = _example(
        id="gen_8f3a",
        model="demo",
        content=_CONTENT,
        **_ENDING,
        token_ids=[41, 17, 3],
        logprobs=[{**_TOKEN, "top": [_TOKEN]}],
    )

    id: str
    model: str
    content: list[AnswerPart]


class RetrieveAnswer(AnswerModel):
    model_config = _example(images=[_IMAGE], query_embedding=[0.12, -0.08])

    images: list[Image]
    query_embedding: list[float] | None = None


class Score(AnswerModel):
    log_likelihood: float = Field(description="Natural logarithm, summed over the tokens.")
    mean_log_likelihood: float
    tokens: int


class ScoreAnswer(AnswerModel):
    model_config = _example(
        scores=[{"log_likelihood": -2.4, "mean_log_likelihood": -1.2, "tokens": 2}]
    )

    scores: list[Score]


class UploadAnswer(AnswerModel):
    model_config = _example(
        id="up_Xb2vR0tq7YkLw9ZsCe4A1mNd", width=640, height=480, expires_at=1795000000
    )

    id: str
    width: int
    height: int
    expires_at: int = Field(description="Unix time in seconds.")


class BundleCard(AnswerModel):
    """What stands behind a model's name."""

    language_model: str = Field(description="As the bundle names it: a hub id or a folder in it.")
    architecture: str = Field(description="The language model's, as transformers calls it.")
    vision_encoder: str
    context: int = Field(description="Tokens of a prompt and its reply together.")
    soft_tokens: int = Field(description="What a picture takes of the context.")
    shared_dim: int = Field(description="Numbers in a query and in a picture's vector.")
    device: str
    numbers: str = Field(description="What it computes with, such as bfloat16.")


class ModelCard(AnswerModel):
    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "fromage"
    bundle: BundleCard


_BUNDLE: Final[dict[str, Any]] = {
    "language_model": "facebook/opt-6.7b",
    "architecture": "opt",
    "vision_encoder": "openai/clip-vit-large-patch14",
    "context": 2048,
    "soft_tokens": 1,
    "shared_dim": 256,
    "device": "cuda",
    "numbers": "bfloat16",
}
_MODEL: Final[dict[str, Any]] = {
    "id": "fromage",
    "object": "model",
    "created": 1795000000,
    "owned_by": "fromage",
    "bundle": _BUNDLE,
}


class ModelList(AnswerModel):
    model_config = _example(object="list", data=[_MODEL])

    object: Literal["list"] = "list"
    data: list[ModelCard]


class Health(AnswerModel):
    model_config = _example(status="ok")

    status: Literal["ok", "ready"]


class ErrorBody(AnswerModel):
    type: str
    code: str
    message: str
    param: str | None


class ErrorEnvelope(AnswerModel):
    model_config = _example(
        error={
            "type": "invalid_request_error",
            "code": "invalid_value",
            "message": "temperature: input should be less than or equal to 2; it is 3",
            "param": "temperature",
        }
    )

    error: ErrorBody
