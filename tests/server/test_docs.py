"""/docs: every endpoint with examples, and every option with its range and default."""

import json
from typing import Any

import pytest

from fromage_server.app import create_app
from fromage_server.schema.collections import (
    AddImagesRequest,
    AmendImageRequest,
    CreateCollectionRequest,
)
from fromage_server.schema.completions import CompletionRequest
from fromage_server.schema.requests import (
    ChatRequest,
    GenerateRequest,
    RetrieveRequest,
    ScoreRequest,
)
from fromage_server.settings import Settings

ENDPOINTS = {
    "/v1/chat": {"post"},
    "/v1/chat/completions": {"post"},
    "/v1/generate": {"post"},
    "/v1/retrieve": {"post"},
    "/v1/score": {"post"},
    "/v1/uploads": {"post"},
    "/v1/images/{collection}/{id}": {"get"},
    "/v1/models": {"get"},
    "/v1/models/{id}": {"get"},
    "/v1/collections": {"get", "post"},
    "/v1/collections/{collection}": {"delete"},
    "/v1/collections/{collection}/images": {"get", "post"},
    "/v1/collections/{collection}/images/{id}": {"patch", "delete"},
    "/healthz": {"get"},
    "/readyz": {"get"},
}
BODIES = (
    ChatRequest,
    CompletionRequest,
    GenerateRequest,
    RetrieveRequest,
    ScoreRequest,
    CreateCollectionRequest,
    AmendImageRequest,
)


@pytest.fixture(scope="module")
def openapi() -> dict[str, Any]:
    return create_app(Settings(), on_failure=lambda message: None).openapi()


def test_every_endpoint_is_there(openapi: dict[str, Any]) -> None:
    assert {path: set(verbs) for path, verbs in openapi["paths"].items()} == ENDPOINTS


def test_every_endpoint_says_what_it_does_and_how_it_fails(openapi: dict[str, Any]) -> None:
    operations = [(path, verb) for path, verbs in ENDPOINTS.items() for verb in verbs]
    for path, verb in operations:
        operation = openapi["paths"][path][verb]
        assert operation["description"], path
        assert {"4XX", "5XX"} <= set(operation["responses"]), path
        assert {"200", "201"} & set(operation["responses"]), path
        assert "422" not in operation["responses"], path


def test_the_body_of_an_addition_is_described(openapi: dict[str, Any]) -> None:
    """It is JSON or a form, so the route reads it itself."""
    operation = openapi["paths"]["/v1/collections/{collection}/images"]["post"]
    content = operation["requestBody"]["content"]
    assert set(content) == {"application/json", "multipart/form-data"}
    schema = content["application/json"]["schema"]
    images = schema["properties"]["images"]
    assert images["description"]
    for field, described in images["items"]["properties"].items():
        assert described.get("description"), field
    assert "$ref" not in json.dumps(schema)
    for example in schema["examples"]:
        AddImagesRequest.model_validate(example)


@pytest.mark.parametrize("body", BODIES)
def test_the_examples_are_valid(openapi: dict[str, Any], body: type[ChatRequest]) -> None:
    schema = openapi["components"]["schemas"][body.__name__]
    assert schema["examples"]
    for example in schema["examples"]:
        body.model_validate(example)


@pytest.mark.parametrize("body", BODIES)
def test_every_option_is_described(openapi: dict[str, Any], body: type[ChatRequest]) -> None:
    for name, field in openapi["components"]["schemas"][body.__name__]["properties"].items():
        assert field.get("description"), name


def test_answers_have_examples(openapi: dict[str, Any]) -> None:
    names = ("ChatAnswer", "GenerateAnswer", "RetrieveAnswer", "ScoreAnswer", "UploadAnswer")
    more = ("ModelList", "CollectionList", "Health", "ErrorEnvelope", "CollectionCard")
    live = ("AddImagesAnswer", "ImagePage", "ImageAnswer", "DeletedImage", "DroppedCollection")
    for name in (*names, *more, *live, "CompletionAnswer"):
        assert openapi["components"]["schemas"][name].get("examples"), name
