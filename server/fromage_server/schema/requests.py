"""The bodies of the POST requests."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Field, field_validator, model_validator

from fromage_server.schema.base import STOP_AT_FIRST, RequestModel, Text
from fromage_server.schema.options import (
    MAX_TOKENS_LIMIT,
    MAX_TOKENS_TEXT,
    ChatOptions,
    GenerationOptions,
    Logprobs,
    RetrievalOptions,
)
from fromage_server.schema.parts import Part, Parts, TextPart

_PICTURE = "data:image/png;base64,iVBORw0KGgo…"


class Message(RequestModel):
    role: Literal["system", "user", "assistant"]
    content: Parts = Field(
        description="Text, or parts in order. A user's images are read; an assistant's images "
        "stand for the [RET] that brought them."
    )

    @model_validator(mode="after")
    def _has_content(self) -> Message:
        if self.role != "assistant" and not any(
            not isinstance(part, TextPart) or part.text for part in self.content
        ):
            raise ValueError(f"a {self.role} message needs some text or an image")
        if self.role == "system" and not all(isinstance(part, TextPart) for part in self.content):
            raise ValueError("a system message holds text only")
        return self


class ChatRequest(ChatOptions):
    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"messages": [{"role": "user", "content": "show me an elephant"}], "stream": False},
                {
                    "messages": [
                        {
                            "role": "user",
                            "content": [
                                {"type": "image_url", "image_url": {"url": _PICTURE}},
                                {"type": "text", "text": "what is this?"},
                            ],
                        }
                    ],
                    "max_tokens": 64,
                    "truncation": "oldest_turns",
                },
            ]
        }
    )

    messages: Annotated[list[Message], STOP_AT_FIRST] = Field(
        min_length=1, max_length=4096, description="The history; the last message is the user's."
    )
    logprobs: Logprobs = None

    @field_validator("messages")
    @classmethod
    def _user_is_last(cls, messages: list[Message]) -> list[Message]:
        if messages[-1].role != "user":
            raise ValueError(
                f"the last message must be the user's; its role is {messages[-1].role!r}"
            )
        return messages


class GenerateRequest(GenerationOptions):
    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "prompt": [{"type": "text", "text": "Q: show me a red car\nA:"}],
                    "max_tokens": 32,
                    "return_token_ids": True,
                    "logprobs": 2,
                },
                {
                    "prompt": [{"type": "text", "text": "three dogs on blue[RET]"}],
                    "max_tokens": 0,
                    "max_img_per_ret": 3,
                    "return_query_embedding": True,
                },
            ]
        }
    )

    prompt: Parts = Field(min_length=1, description="Text and images in order; no chat template.")
    max_tokens: int | None = Field(
        default=None,
        ge=0,
        le=MAX_TOKENS_LIMIT,
        description=MAX_TOKENS_TEXT + " 0 reads the [RET]s of the prompt itself.",
    )
    exclude_shown: bool = Field(
        default=False,
        description="Don't show a picture that the prompt refers to by collection and id.",
    )
    return_token_ids: bool = Field(default=False, description="Add `token_ids`: all generated ids.")
    logprobs: Logprobs = None
    return_query_embedding: bool = Field(
        default=False, description="Add the [RET]'s unit-norm query beside each image."
    )
    reference_compat: bool = Field(
        default=False, description="Behave exactly as the reference code's generation function."
    )


class RetrieveRequest(RetrievalOptions):
    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"prompt": [{"type": "text", "text": "two frogs on green[RET]"}], "k": 5},
                {
                    "prompt": "a guitar",
                    "k": 3,
                    "filter": {"background": {"in": ["white", "yellow"]}},
                    "return_query_embedding": True,
                },
            ]
        }
    )

    prompt: Parts = Field(
        min_length=1,
        description="The context; [RET] is appended where it doesn't end in one.",
    )
    k: int = Field(default=10, ge=1, le=1000, description="How many images, best first.")
    exclude: Annotated[list[str], STOP_AT_FIRST] = Field(
        default_factory=list, max_length=10_000, description="Ids that must not come back."
    )
    return_query_embedding: bool = Field(default=False, description="Add the unit-norm query.")


class ScoreRequest(RequestModel):
    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "prompt": [{"type": "text", "text": "Q: is the sky blue?\nA:"}],
                    "candidates": [" yes", " no"],
                },
                {"prompt": "a dog on blue"},
            ]
        }
    )

    prompt: Parts = Field(min_length=1, description="The context.")
    candidates: Annotated[list[Text], STOP_AT_FIRST] | None = Field(
        default=None,
        min_length=1,
        max_length=1024,
        description="Continuations to score. Default: the prompt itself is scored.",
    )
    reference_compat: bool = Field(
        default=False,
        description="Score candidates as the reference's evaluation script: logits at a position "
        "against the token at the same position, the begin token included.",
    )


def parts_of(messages: list[Message]) -> list[Part]:
    """Every part of a history, in order."""
    return [part for message in messages for part in message.content]
