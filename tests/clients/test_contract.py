"""What the client knows of the server, held against the server itself."""

from dataclasses import fields
from typing import Any

import pytest
from pydantic import BaseModel

from fromage_client import (
    BundleInfo,
    CollectionInfo,
    Forbidden,
    ImageRef,
    InvalidRequest,
    ModelInfo,
    NotFound,
    NotReady,
    Overloaded,
    Score,
    ServerError,
    ServerFailure,
    Timings,
    TokenLogprob,
    Unavailable,
    Upload,
    Usage,
)
from fromage_client.errors import server_error
from fromage_client.options import ChatOptions, GenerateOptions, RetrieveOptions, ScoreOptions
from fromage_server.errors import ERROR_TABLE, ApiError
from fromage_server.schema import answers
from fromage_server.schema.collections import CollectionCard
from fromage_server.schema.requests import (
    ChatRequest,
    GenerateRequest,
    RetrieveRequest,
    ScoreRequest,
)

BY_TYPE: dict[str, type[ServerError]] = {
    "invalid_request_error": InvalidRequest,
    "permission_error": Forbidden,
    "not_found_error": NotFound,
    "unavailable_error": Unavailable,
    "server_error": ServerFailure,
}
BY_CODE: dict[str, type[ServerError]] = {"not_ready": NotReady, "queue_full": Overloaded}


@pytest.mark.parametrize("code", ERROR_TABLE)
def test_every_error_of_the_server_has_its_type(code: str) -> None:
    sent = ApiError(code, "why", param="where", retry_after=3)
    caught = server_error(sent.envelope(), status=sent.kind.status, retry_after=3)
    assert type(caught) is BY_CODE.get(code, BY_TYPE[sent.kind.type])
    assert (caught.code, caught.param, caught.message) == (code, "where", "why")


@pytest.mark.parametrize(
    ("request_", "options"),
    [
        (ChatRequest, ChatOptions),
        (GenerateRequest, GenerateOptions),
        (RetrieveRequest, RetrieveOptions),
        (ScoreRequest, ScoreOptions),
    ],
)
def test_every_option_of_the_server_can_be_given(request_: type[BaseModel], options: type) -> None:
    given_otherwise = {"messages", "prompt", "stream"}
    assert set(request_.model_fields) - given_otherwise == set(options.__annotations__)


@pytest.mark.parametrize(
    ("answered", "read"),
    [
        (answers.BundleCard, BundleInfo),
        (answers.Image, ImageRef),
        (answers.ModelCard, ModelInfo),
        (answers.Score, Score),
        (answers.Timings, Timings),
        (answers.TokenLogprob, TokenLogprob),
        (answers.UploadAnswer, Upload),
        (answers.Usage, Usage),
        (CollectionCard, CollectionInfo),
    ],
)
def test_every_field_of_an_answer_is_read(answered: type[BaseModel], read: Any) -> None:
    ours = {field.name for field in fields(read)} - {"server"}
    assert set(answered.model_fields) - {"object"} == ours
