import asyncio
import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fromage_client import ImageRef, Picture, TextPart, UnusablePicture, Upload
from fromage_client.exchange import Exchange
from fromage_client.messages import INLINE_LIMIT, ContentPart, Intake
from fromage_client.reply import ImagePart
from fromage_client.wire import BlockingWire, run
from tests.clients.scripted import Answer, ScriptedServer, answer

PNG = b"\x89PNG\r\n\x1a\n rest"
LARGE = PNG + b"\0" * INLINE_LIMIT


@pytest.fixture
def intake(scripted: ScriptedServer) -> Iterator[Intake]:
    wire = BlockingWire(scripted.url, 10)
    yield Intake(wire, Exchange(wire, retries=0))
    run(wire.close())


def inline(data: bytes, kind: str = "image/png") -> dict[str, Any]:
    url = f"data:{kind};base64,{base64.b64encode(data).decode()}"
    return {"type": "image_url", "image_url": {"url": url}}


def test_every_kind_of_part_in_its_order(
    intake: Intake, scripted: ScriptedServer, tmp_path: Path
) -> None:
    path = tmp_path / "cat.jpg"
    path.write_bytes(b"\xff\xd8\xff rest")
    ref = ImageRef("a1", "demo", "cat.png", "/v1/images/demo/a1")
    own = {"type": "text", "text": "as is"}
    shown = ImagePart(2, ref)
    given: list[ContentPart] = [
        "say",
        PNG,
        path,
        ref,
        Upload("u1", 1, 1, 0),
        TextPart("x"),
        shown,
        own,
    ]
    assert run(intake.content(given)) == [
        {"type": "text", "text": "say"},
        inline(PNG),
        inline(b"\xff\xd8\xff rest", "image/jpeg"),
        {"type": "image", "image": {"collection": "demo", "id": "a1"}},
        {"type": "image", "image": {"upload": "u1"}},
        {"type": "text", "text": "x"},
        {"type": "image", "ret_index": 2, "image": ref.to_json(), "alternatives": []},
        own,
    ]
    assert scripted.asked == []


def test_a_large_image_is_uploaded_instead(intake: Intake, scripted: ScriptedServer) -> None:
    scripted.script["/v1/uploads"] = [
        answer({"id": "u7", "width": 1, "height": 1, "expires_at": 1 << 40})
    ]
    for _ in range(2):
        parts = run(intake.content([LARGE]))
        assert parts == [{"type": "image", "image": {"upload": "u7"}}]
    [asked] = scripted.asked
    assert asked.body == LARGE
    assert run(intake.content([LARGE[:INLINE_LIMIT]])) == [inline(LARGE[:INLINE_LIMIT])]


def test_an_image_by_its_url_is_fetched_by_the_client(
    intake: Intake, scripted: ScriptedServer
) -> None:
    scripted.script["/old"] = [Answer(status=302, headers={"location": "/cat"})]
    scripted.script["/cat"] = [Answer((PNG,))]
    assert run(intake.content([Picture(f"{scripted.url}/old?a=b")])) == [inline(PNG)]
    assert [asked.path for asked in scripted.asked] == ["/old?a=b", "/cat"]
    with pytest.raises(UnusablePicture, match="/none answers 404"):
        run(intake.content([Picture(f"{scripted.url}/none")]))


def test_a_message_keeps_what_else_it_says(intake: Intake) -> None:
    message = {"role": "user", "content": "hi"}
    assert run(intake.messages([message])) == [message]
    assert run(intake.messages([{"role": "user", "content": ("a",)}])) == [
        {"role": "user", "content": [{"type": "text", "text": "a"}]}
    ]
    assert run(intake.messages("hi")) == [message]


def test_a_part_of_another_kind_is_named(intake: Intake) -> None:
    with pytest.raises(TypeError, match="not int"):
        run(intake.content([3]))  # type: ignore[list-item]


def test_a_coroutine_that_waits_for_something_else_is_refused() -> None:
    with pytest.raises(AssertionError, match="does not suspend"):
        run(asyncio.sleep(0))
