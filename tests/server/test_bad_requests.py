"""What a client gets wrong: a clear 4xx in one envelope, and nothing lost for others."""

import base64
import io
import json
from typing import Any

import httpx
import pytest
from PIL import Image

from tests.server.pictures import encoded, picture

Json = dict[str, Any]
CHAT: Json = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 2}
JSON = {"content-type": "application/json"}


def refused(response: httpx.Response, status: int, code: str) -> Json:
    assert response.status_code == status, response.text
    (name,) = response.json()
    error: Json = response.json()[name]
    assert (name, set(error)) == ("error", {"type", "code", "message", "param"})
    assert error["code"] == code, error
    return error


def with_image(data: bytes, media_type: str = "image/png") -> Json:
    url = f"data:{media_type};base64,{base64.b64encode(data).decode()}"
    return with_url(url)


def with_url(url: str) -> Json:
    content = [{"type": "image_url", "image_url": {"url": url}}]
    return {"messages": [{"role": "user", "content": content}], "max_tokens": 2}


def with_ref(**ref: str) -> Json:
    content = [{"type": "text", "text": "a"}, {"type": "image", "image": ref}]
    return {"messages": [{"role": "user", "content": content}], "max_tokens": 2}


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (b'{"messages": [,]}', "character 14"),
        (b"", "body is missing"),
        (b"\xff\xfe\xff", "UTF-8"),
        (b"[" * 100_000, "nested too deeply"),
        (b'"hello"', "the body"),
        (b"null", "the body"),
        (b'{"messages": [{"role": "user", "content": "\\ud800"}]}', "content"),
        (b'{"messages": [{"role": "user", "content": 7}]}', "text or a list of parts; it is 7"),
    ],
)
def test_malformed_bodies(server: httpx.Client, body: bytes, told: str) -> None:
    response = server.post("/v1/chat", content=body, headers=JSON)
    assert response.status_code == 400, response.text
    assert told in response.json()["error"]["message"]


@pytest.mark.parametrize("path", ["/v1/chat", "/v1/generate", "/v1/retrieve", "/v1/score"])
@pytest.mark.parametrize("header", ["text/plain", "application/x-www-form-urlencoded", None])
def test_another_content_type_is_refused(
    server: httpx.Client, path: str, header: str | None
) -> None:
    headers = {} if header is None else {"content-type": header}
    response = server.post(path, content=json.dumps(CHAT).encode(), headers=headers)
    error = refused(response, 415, "unsupported_media_type")
    assert "Content-Type" in error["message"]
    assert "application/json" in error["message"]


def test_uploads_take_images_only(server: httpx.Client) -> None:
    response = server.post("/v1/uploads", content=b"{}", headers=JSON)
    assert "Content-Type" in refused(response, 415, "unsupported_media_type")["message"]


def test_a_charset_is_no_other_type(server: httpx.Client) -> None:
    headers = {"content-type": "application/json; charset=utf-8"}
    assert server.post("/v1/chat", content=json.dumps(CHAT), headers=headers).status_code == 200


@pytest.mark.parametrize("declared", [True, False])
def test_a_large_body_is_refused(server: httpx.Client, declared: bool) -> None:
    parts = [b" " * 65536] * 20
    content = b"".join(parts) if declared else iter(parts)
    response = server.post("/v1/chat", content=content, headers=JSON)
    assert "1,048,576 bytes" in refused(response, 413, "body_too_large")["message"]


@pytest.mark.parametrize(
    ("change", "param", "told"),
    [
        ({"max_tokens": 0}, "max_tokens", "greater than or equal to 1"),
        ({"max_tokens": 1_000_000}, "max_tokens", "less than or equal to"),
        ({"max_tokens": 5000}, "max_tokens", "4096"),
        ({"top_p": 0}, "top_p", "greater than 0"),
        ({"min_score": 2}, "min_score", "less than or equal to 1"),
        ({"image_format": "webp"}, "image_format", "'url' or 'base64'"),
    ],
)
def test_values_out_of_range(server: httpx.Client, change: Json, param: str, told: str) -> None:
    error = refused(server.post("/v1/chat", json=CHAT | change), 400, "invalid_value")
    assert error["param"] == param
    assert told in error["message"]


def test_an_unknown_key_is_named(server: httpx.Client) -> None:
    error = refused(server.post("/v1/chat", json=CHAT | {"maxtokens": 5}), 400, "unknown_field")
    assert error["param"] == "maxtokens"


@pytest.mark.parametrize(
    ("filter", "param"),
    [
        ({"no such field": 1}, "filter.no such field"),
        ({"number": {"above": 1}}, "filter.number"),
        ({"number": {"in": 1}}, "filter.number"),
    ],
)
@pytest.mark.parametrize("path", ["/v1/chat", "/v1/retrieve"])
def test_a_wrong_filter(server: httpx.Client, path: str, filter: Json, param: str) -> None:
    body = CHAT if path == "/v1/chat" else {"prompt": "a"}
    error = refused(server.post(path, json=body | {"filter": filter}), 400, "invalid_filter")
    assert error["param"] == param


def png_header(width: int, height: int) -> bytes:
    """A picture of one pixel whose header says something else."""
    data = bytearray(encoded(Image.new("RGB", (1, 1))))
    data[16:24] = width.to_bytes(4, "big") + height.to_bytes(4, "big")
    return bytes(data)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"this is text",
        b"<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'/>",
        encoded(picture(0))[:200],
        encoded(picture(0), "JPEG")[:300],
        png_header(100_000, 100_000),
        b"GIF89a",
        b"\x89PNG\r\n\x1a\n" + b"\0" * 100,
    ],
    ids=["empty", "text", "svg", "cut png", "cut jpeg", "huge", "gif header", "png header"],
)
def test_broken_images(server: httpx.Client, data: bytes) -> None:
    error = refused(server.post("/v1/chat", json=with_image(data)), 400, "unreadable_image")
    assert error["param"] == "messages.0.content.0.image_url.url"


@pytest.mark.parametrize(
    ("url", "code"),
    [
        ("https://example.org/a.png", "image_url_not_allowed"),
        ("http://127.0.0.1:1/a.png", "image_url_not_allowed"),
        ("file:///etc/passwd", "image_url_not_allowed"),
        ("/etc/passwd", "image_url_not_allowed"),
        ("data:image/png,abc", "unreadable_image"),
        ("data:image/png;base64,###", "unreadable_image"),
        ("data:image/png;base64,YQ", "unreadable_image"),
    ],
)
def test_other_image_addresses(server: httpx.Client, url: str, code: str) -> None:
    error = refused(server.post("/v1/chat", json=with_url(url)), 400, code)
    assert error["param"] == "messages.0.content.0.image_url.url"
    assert "data:image/png;base64" in error["message"] or "base64" in error["message"]


@pytest.mark.parametrize(
    ("ref", "code", "param"),
    [
        ({"upload": "up_unknown"}, "upload_not_found", ".upload"),
        ({"collection": "nowhere", "id": "a"}, "collection_not_found", ".collection"),
        ({"collection": "shelf", "id": "unknown"}, "image_not_found", ".id"),
        ({"collection": "shelf", "id": "../secret"}, "image_not_found", ".id"),
    ],
)
def test_unknown_images(server: httpx.Client, ref: dict[str, str], code: str, param: str) -> None:
    error = refused(server.post("/v1/chat", json=with_ref(**ref)), 404, code)
    assert error["param"] == "messages.0.content.1.image" + param


def test_an_unknown_collection(server: httpx.Client) -> None:
    for path, body in (("/v1/chat", CHAT), ("/v1/retrieve", {"prompt": "a"})):
        response = server.post(path, json={**body, "collection": "nowhere"})
        error = refused(response, 404, "collection_not_found")
        assert error["param"] == "collection"
        assert "shelf, box" in error["message"]


def test_a_prompt_longer_than_the_context(server: httpx.Client) -> None:
    for path in ("/v1/generate", "/v1/retrieve", "/v1/score"):
        response = server.post(path, json={"prompt": "a" * 5000})
        message = refused(response, 400, "context_length_exceeded")["message"]
        assert "500" in message
        assert "4096" in message


def test_too_many_images(server: httpx.Client) -> None:
    uri = f"data:image/png;base64,{base64.b64encode(encoded(picture(0, (4, 4)))).decode()}"
    prompt = [{"type": "image_url", "image_url": {"url": uri}}] * 65
    response = server.post("/v1/generate", json={"prompt": prompt, "max_tokens": 1})
    error = refused(response, 400, "too_many_images")
    assert error["param"] == "prompt.64"


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"stop": "x"}, "stop"),
        ({"min_score": 0.5}, "min_score"),
        ({"filter": {"number": 1}}, "filter"),
        ({"exclude_shown": True}, "exclude_shown"),
        ({"top_k": 3}, "top_k"),
    ],
)
def test_what_the_reference_does_not_know(server: httpx.Client, change: Json, param: str) -> None:
    body = {"prompt": "a", "max_tokens": 1, "reference_compat": True} | change
    assert refused(server.post("/v1/generate", json=body), 400, "invalid_value")["param"] == param


def test_what_the_reference_raises_on(server: httpx.Client) -> None:
    uri = f"data:image/png;base64,{base64.b64encode(encoded(picture(0))).decode()}"
    prompt = [{"type": "image_url", "image_url": {"url": uri}}]
    for path, more in (("/v1/generate", {"max_tokens": 1}), ("/v1/score", {})):
        body = {"prompt": prompt, "reference_compat": True, **more}
        refused(server.post(path, json=body), 422, "reference_error")
    body = {"prompt": "a[RET]", "reference_compat": True, "max_tokens": 0, "max_img_per_ret": 7}
    error = refused(server.post("/v1/generate", json=body), 422, "reference_error")
    assert "at least 10 images" in error["message"]


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"prompt": "a", "candidates": ["b", ""]}, "candidates.1"),
        ({"prompt": "a", "candidates": []}, "candidates"),
    ],
)
def test_nothing_to_score(server: httpx.Client, body: Json, param: str) -> None:
    assert refused(server.post("/v1/score", json=body), 400, "invalid_value")["param"] == param


def test_routes_and_methods(server: httpx.Client) -> None:
    refused(server.get("/v2/chat"), 404, "route_not_found")
    response = server.get("/v1/chat")
    refused(response, 405, "method_not_allowed")
    assert response.headers["allow"] == "POST"


@pytest.mark.parametrize("mode", ["CMYK", "I;16", "P", "L", "LA", "RGBA", "1", "animation"])
def test_unusual_images_are_read(server: httpx.Client, mode: str) -> None:
    image, out = picture(0), io.BytesIO()
    if mode == "CMYK":
        image.convert("CMYK").save(out, "JPEG")
    elif mode == "animation":
        image.save(out, "GIF", save_all=True, append_images=[picture(1)])
    elif mode == "I;16":
        Image.new("I;16", (40, 30), 40_000).save(out, "PNG")
    else:
        image.convert(mode).save(out, "PNG")
    assert server.post("/v1/chat", json=with_image(out.getvalue())).status_code == 200


@pytest.mark.parametrize(
    ("field", "value"),
    [("content", "[" + "0," * 50_000 + "0]"), ("content", '["' + "x" * 500_000 + '"]')],
)
def test_a_long_wrong_list_is_told_once_and_shortly(
    server: httpx.Client, field: str, value: str
) -> None:
    body = f'{{"messages": [{{"role": "user", "{field}": {value}}}]}}'
    error = refused(server.post("/v1/chat", content=body, headers=JSON), 400, "invalid_value")
    assert error["param"] == "messages.0.content.0"
    assert len(error["message"]) < 400


@pytest.mark.parametrize(
    "value", ["[" + "0," * 150_000 + "0]", '"' + "x" * 900_000 + '"', '{"a": {"b": [1, 2, 3]}}']
)
def test_a_wrong_value_is_shown_shortly(server: httpx.Client, value: str) -> None:
    body = f'{{"messages": [{{"role": "user", "content": "a"}}], "temperature": {value}}}'
    error = refused(server.post("/v1/chat", content=body, headers=JSON), 400, "invalid_value")
    assert error["param"] == "temperature"
    assert len(error["message"]) < 400


def test_a_body_of_very_many_values_is_refused_unparsed(server: httpx.Client) -> None:
    body = '{"messages": [' + "0," * 300_000 + "0]}"
    error = refused(server.post("/v1/chat", content=body, headers=JSON), 413, "body_too_large")
    assert "values" in error["message"]


def test_a_long_unknown_key_is_not_echoed(server: httpx.Client) -> None:
    error = refused(server.post("/v1/chat", json={**CHAT, "k" * 50_000: 1}), 400, "unknown_field")
    assert len(json.dumps(error)) < 600


def test_a_broken_form_is_named_as_such(server: httpx.Client) -> None:
    headers = {"content-type": "multipart/form-data; boundary=x"}
    response = server.post("/v1/uploads", content=b"--y\r\nnonsense", headers=headers)
    assert "form" in refused(response, 400, "bad_request")["message"]


def test_two_files_of_one_name_are_not_taken_for_one(server: httpx.Client) -> None:
    files = [("file", encoded(picture(1), "PNG")), ("file", encoded(picture(1), "PNG"))]
    response = server.post("/v1/uploads", files=files)
    assert "2 files" in refused(response, 400, "invalid_value")["message"]


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("POST", "/healthz", 405, "method_not_allowed"),
        ("POST", "/nothing", 404, "route_not_found"),
        ("GET", "/v1/images/anything", 404, "route_not_found"),
    ],
)
def test_the_router_speaks_first(
    server: httpx.Client, method: str, path: str, status: int, code: str
) -> None:
    refused(server.request(method, path, content=b"x"), status, code)


def test_head_of_the_health_checks(server: httpx.Client) -> None:
    assert server.head("/healthz").status_code == server.head("/readyz").status_code == 200


def test_a_prompt_that_is_too_long_names_its_field(server: httpx.Client) -> None:
    long = "word " * 5000
    asked = {"prompt": "a", "candidates": ["b", long]}
    error = refused(server.post("/v1/score", json=asked), 400, "context_length_exceeded")
    assert error["param"] == "candidates.1"
    assert "max_tokens" not in error["message"]
    chat = {"messages": [{"role": "user", "content": long}], "max_tokens": 7}
    error = refused(server.post("/v1/chat", json=chat), 400, "context_length_exceeded")
    assert error["param"] == "messages"
