"""The bodies of the answers, as /docs shows them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from fromage_server.schema.base import AnswerModel

FinishReason = Literal["stop", "length", "cancelled", "error"]


class AnswerText(AnswerModel):
    type: Literal["text"] = "text"
    text: str


class Image(AnswerModel):
    id: str = Field(description="The index's own name.")
    collection: str
    key: str = Field(description="Its owner's name for it: a path, an address, a file name.")
    url: str = Field(description="Where to get it; relative to this server, or a data URI.")
    score: float = Field(description="Cosine, from -1 to 1.")
    width: int | None = Field(description="null where only an address is known.")
    height: int | None
    metadata: dict[str, Any]


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
    id: str
    model: str
    message: AnswerMessage


class GenerateAnswer(Ending):
    id: str
    model: str
    content: list[AnswerPart]


class RetrieveAnswer(AnswerModel):
    images: list[Image]
    query_embedding: list[float] | None = None


class Score(AnswerModel):
    log_likelihood: float = Field(description="Natural logarithm, summed over the tokens.")
    mean_log_likelihood: float
    tokens: int


class ScoreAnswer(AnswerModel):
    scores: list[Score]


class UploadAnswer(AnswerModel):
    id: str
    width: int
    height: int
    expires_at: int = Field(description="Unix time in seconds.")


class ModelCard(AnswerModel):
    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "fromage"


class ModelList(AnswerModel):
    object: Literal["list"] = "list"
    data: list[ModelCard]


class CollectionCard(AnswerModel):
    name: str
    size: int = Field(description="Images that can be found.")
    dim: int
    default: bool


class CollectionList(AnswerModel):
    collections: list[CollectionCard]


class Health(AnswerModel):
    status: Literal["ok", "ready"]


class ErrorBody(AnswerModel):
    type: str
    code: str
    message: str
    param: str | None


class ErrorEnvelope(AnswerModel):
    error: ErrorBody
