import base64
from pathlib import Path

import pytest

from fromage_client import ImageRef, TextPart, Upload
from fromage_client.messages import INLINE_LIMIT, content_type, encode_content, encode_message
from fromage_client.reply import ImagePart

PNG = b"\x89PNG\r\n\x1a\n rest"


def no_upload(data: bytes) -> Upload:
    raise AssertionError(f"uploaded {len(data)} bytes")


def test_every_kind_of_part_in_its_order(tmp_path: Path) -> None:
    path = tmp_path / "cat.jpg"
    path.write_bytes(b"\xff\xd8\xff rest")
    ref = ImageRef("a1", "demo", "cat.png", "/v1/images/demo/a1")
    own = {"type": "text", "text": "as is"}
    parts = encode_content(
        ["say", PNG, path, ref, Upload("u1", 1, 1, 0), TextPart("x"), ImagePart(2, ref), own],
        no_upload,
    )
    assert isinstance(parts, list)
    kinds = ["text", "image_url", "image_url", "image", "image", "text", "image", "text"]
    assert [part["type"] for part in parts] == kinds
    assert parts[0]["text"] == "say"
    png, jpeg = parts[1]["image_url"]["url"], parts[2]["image_url"]["url"]
    assert png == "data:image/png;base64," + base64.b64encode(PNG).decode()
    assert jpeg.startswith("data:image/jpeg;base64,")
    assert parts[3]["image"] == {"collection": "demo", "id": "a1"}
    assert parts[4]["image"] == {"upload": "u1"}
    assert parts[6]["ret_index"] == 2
    assert parts[7] == own


def test_a_large_image_is_uploaded_instead() -> None:
    sent: list[bytes] = []

    def upload(data: bytes) -> Upload:
        sent.append(data)
        return Upload("u7", 1, 1, 0)

    large = PNG + b"\0" * INLINE_LIMIT
    parts = encode_content([large], upload)
    assert parts == [{"type": "image", "image": {"upload": "u7"}}]
    assert sent == [large]


def test_a_message_keeps_what_else_it_says() -> None:
    message = {"role": "user", "content": "hi"}
    assert encode_message(message, no_upload) == message
    assert encode_message({"role": "user", "content": ("a",)}, no_upload)["content"] == [
        {"type": "text", "text": "a"}
    ]


def test_a_part_of_another_kind_is_named() -> None:
    with pytest.raises(TypeError, match="not int"):
        encode_content([3], no_upload)  # type: ignore[list-item]


@pytest.mark.parametrize(
    ("start", "kind"),
    [
        (b"RIFF\0\0\0\0WEBPVP8 ", "image/webp"),
        (b"RIFF\0\0\0\0WAVE", "application/octet-stream"),
        (b"GIF89a", "image/gif"),
        (b"MM\0*", "image/tiff"),
        (b"", "application/octet-stream"),
    ],
)
def test_the_first_bytes_tell_the_type(start: bytes, kind: str) -> None:
    assert content_type(start) == kind
