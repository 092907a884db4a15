"""Pictures as a markdown reader and a field's reader see them."""

from typing import Any

from fromage_server.completions.rendering import Rendering, markdown
from fromage_server.reply import ImageShown, TextDelta


def part(ret_index: int = 0, **image: Any) -> dict[str, Any]:
    known = {"id": "x", "collection": "c", "key": "k.png", "url": "/v1/images/c/x", "metadata": {}}
    return {"type": "image", "ret_index": ret_index, "image": {**known, **image}}


def test_a_paragraph_for_each_ret_and_a_line_for_each_of_its_pictures() -> None:
    events: list[TextDelta | ImageShown] = [
        *(ImageShown(0, part(0)), ImageShown(1, part(0)), ImageShown(2, part(1))),
        *(TextDelta(3, " then"), TextDelta(3, " text"), ImageShown(4, part(2))),
    ]
    rendering = Rendering("markdown", "http://h")
    deltas = [delta for event in events for delta in rendering.deltas(event)]
    picture = "![k.png](http://h/v1/images/c/x)"
    assert "".join(delta["content"] for delta in deltas) == (
        f"{picture}\n{picture}\n\n{picture}\n\n then text\n\n{picture}"
    )


def test_each_picture_is_whole_in_its_delta() -> None:
    """Who turns markdown into files reads one delta at a time."""
    rendering = Rendering("both", "http://h")
    [text] = rendering.deltas(TextDelta(0, "see"))
    field, content = rendering.deltas(ImageShown(1, part(5, score=0.5)))
    assert text == {"content": "see"}
    assert content == {"content": "\n\n![k.png](http://h/v1/images/c/x)"}
    assert field == {
        "images": [
            {
                "type": "image_url",
                "image_url": {"url": "http://h/v1/images/c/x"},
                "index": 0,
                "fromage": {
                    **{"id": "x", "collection": "c", "key": "k.png", "metadata": {}},
                    **{"score": 0.5, "ret_index": 5, "text_offset": 3},
                },
            }
        ]
    }


def test_addresses_elsewhere_stay_as_they_are() -> None:
    rendering = Rendering("field", "http://h")
    [delta] = rendering.deltas(ImageShown(0, part(url="https://a.example/b c(1).png")))
    assert delta["images"][0]["image_url"]["url"] == "https://a.example/b c(1).png"


def test_nothing_in_a_caption_or_an_address_ends_the_image() -> None:
    caption = "one]two[three\\four\n\nfive " + "x" * 200
    told = markdown(part(metadata={"caption": caption}), "https://a.example/b c(1)<2>.png")
    alt, _, url = told.removeprefix("![").removesuffix(")").partition("](")
    assert alt.startswith("one\\]two\\[three\\\\four five xxx")
    assert len(alt) < 130
    assert url == "https://a.example/b%20c%281%29%3C2%3E.png"


def test_without_a_caption_the_key_speaks() -> None:
    for caption in (None, "", 5):
        assert markdown(part(metadata={"caption": caption}), "u") == "![k.png](u)"
