"""The table of codes, and every package's error on its way to a status."""

import pytest
from pydantic import ValidationError

from fromage_server.engine import errors as engine_errors
from fromage_server.engine_stream import refusal
from fromage_server.errors import ERROR_TABLE, ApiError
from fromage_server.failures import from_validation
from fromage_server.schema.requests import ChatRequest

STATUSES = {
    "invalid_json": 400,
    "unknown_field": 400,
    "missing_field": 400,
    "invalid_value": 400,
    "invalid_filter": 400,
    "unreadable_image": 400,
    "image_url_not_allowed": 400,
    "too_many_images": 400,
    "context_length_exceeded": 400,
    "unsupported_value": 400,
    "bad_request": 400,
    "read_only": 403,
    "cross_site": 403,
    "not_droppable": 403,
    "route_not_found": 404,
    "model_not_found": 404,
    "collection_not_found": 404,
    "image_not_found": 404,
    "image_unavailable": 404,
    "upload_not_found": 404,
    "method_not_allowed": 405,
    "collection_exists": 409,
    "body_too_large": 413,
    "unsupported_media_type": 415,
    "reference_error": 422,
    "queue_full": 429,
    "collection_busy": 503,
    "not_ready": 503,
    "engine_dead": 503,
    "storage_failed": 500,
    "generation_failed": 500,
    "internal_error": 500,
}


def test_the_table() -> None:
    assert {code: kind.status for code, kind in ERROR_TABLE.items()} == STATUSES


@pytest.mark.parametrize("code", STATUSES)
def test_the_envelope(code: str) -> None:
    error = ApiError(code, "what was wrong", param="field", retry_after=3)
    assert error.envelope() == {
        "error": {
            "type": ERROR_TABLE[code].type,
            "code": code,
            "message": "what was wrong",
            "param": "field",
        }
    }
    assert error.headers == {"Retry-After": "3"}


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (engine_errors.QueueFull(4), "queue_full"),
        (engine_errors.PromptTooLong(100, 20, 110), "context_length_exceeded"),
        (engine_errors.EngineStopped("gone"), "engine_dead"),
        (engine_errors.InvalidRequest("top_k", -1, "0 or more"), "invalid_value"),
        (engine_errors.DuplicateRequest("x"), "internal_error"),
    ],
)
def test_what_the_engine_refuses(error: engine_errors.EngineError, code: str) -> None:
    assert refusal(error).code == code


def test_a_full_queue_says_when_to_come_back() -> None:
    assert "Retry-After" in refusal(engine_errors.QueueFull(4)).headers


def test_a_long_prompt_is_told_its_numbers() -> None:
    message = refusal(engine_errors.PromptTooLong(100, 20, 110)).message
    assert "100 tokens" in message
    assert "at most 10" in message
    assert "at most 109 tokens" in refusal(engine_errors.PromptTooLong(110, 1, 110)).message


@pytest.mark.parametrize(
    ("change", "code", "param"),
    [
        ({"temprature": 1}, "unknown_field", "temprature"),
        ({"temperature": 3}, "invalid_value", "temperature"),
        ({"temperature": "hot"}, "invalid_value", "temperature"),
        ({"temperature": float("nan")}, "invalid_value", "temperature"),
        ({"max_tokens": 0}, "invalid_value", "max_tokens"),
        ({"max_tokens": 1_000_000}, "invalid_value", "max_tokens"),
        ({"max_tokens": True}, "invalid_value", "max_tokens"),
        ({"max_tokens": 1.5}, "invalid_value", "max_tokens"),
        ({"stop": ""}, "invalid_value", "stop.0"),
        ({"stream": "yes"}, "invalid_value", "stream"),
        ({"messages": []}, "invalid_value", "messages"),
        ({"messages": [{"role": "user"}]}, "missing_field", "messages.0.content"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "invalid_value", "messages.0.role"),
        ({"messages": [{"role": "assistant", "content": "x"}]}, "invalid_value", "messages"),
        ({"messages": [{"role": "user", "content": ""}]}, "invalid_value", "messages.0"),
        ({"messages": [{"role": "user", "content": 5}]}, "invalid_value", "messages.0.content"),
        (
            {"messages": [{"role": "user", "content": [{"type": "audio"}]}]},
            "invalid_value",
            "messages.0.content.0",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "text", "text": 1}]}]},
            "invalid_value",
            "messages.0.content.0.text",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "image", "image": {}}]}]},
            "invalid_value",
            "messages.0.content.0.image",
        ),
    ],
)
def test_what_validation_says(change: dict[str, object], code: str, param: str) -> None:
    body = {"messages": [{"role": "user", "content": "hello"}], **change}
    with pytest.raises(ValidationError) as raised:
        ChatRequest.model_validate(body)
    errors = [{**error, "loc": ("body", *error["loc"])} for error in raised.value.errors()]
    error = from_validation(errors, body)
    assert (error.code, error.param) == (code, param)
    assert param in error.message


def test_a_range_is_part_of_the_message() -> None:
    with pytest.raises(ValidationError) as raised:
        ChatRequest.model_validate(
            {"messages": [{"role": "user", "content": "x"}], "temperature": 3}
        )
    errors = [{**error, "loc": ("body", *error["loc"])} for error in raised.value.errors()]
    message = from_validation(errors, None).message
    assert message == "temperature: input should be less than or equal to 2; it is 3"


def test_malformed_json_is_told_its_place() -> None:
    body = '{"messages":\n [1,, 2]}'
    found = {"type": "json_invalid", "loc": ("body", 17), "ctx": {"error": "Expecting value"}}
    error = from_validation([found], body)
    assert error.code == "invalid_json"
    assert "line 2, column 5 (character 17)" in error.message
