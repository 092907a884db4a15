"""Both clients and the terminal chat against the real server."""

import base64
import re
import time
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fromage_client import (
    Client,
    ImageShown,
    InvalidRequest,
    NotFound,
    Picture,
    ServerError,
    TextDelta,
    fold,
)
from fromage_client.messages import INLINE_LIMIT
from tests.clients.conftest import Started
from tests.clients.faces import FACES, client_of
from tests.clients.process import piped

HELLO: list[dict[str, Any]] = [{"role": "user", "content": "hi"}]


@pytest.fixture(scope="module", params=FACES)
def real(request: pytest.FixtureRequest, server: str) -> Iterator[Client]:
    with client_of(request.param, server) as client:
        yield client


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_folded_stream_is_the_json_reply(real: Client, seed: int) -> None:
    options: Any = {"temperature": 1.0, "seed": seed, "max_tokens": 30, "ret_scale_factor": 4.0}
    whole = real.chat(HELLO, **options)
    folded = fold(real.stream(HELLO, **options))
    assert whole.content
    for name in ("content", "finish_reason", "usage", "model"):
        assert getattr(folded, name) == getattr(whole, name)
    assert whole.usage.images_out == len(whole.images)


def test_a_raw_prompt_too_with_all_it_can_return(real: Client, png: bytes) -> None:
    options: Any = {"max_tokens": 6, "return_token_ids": True, "logprobs": 2}
    options |= {"return_query_embedding": True, "ignore_eos": True}
    whole = real.generate(["a", png, "[RET] and"], **options)
    folded = fold(real.stream_generate(["a", png, "[RET] and"], **options))
    assert (folded.content, folded.token_ids) == (whole.content, whole.token_ids)
    assert whole.token_ids is not None
    assert len(whole.token_ids) == 6
    assert whole.logprobs is not None
    assert [row.token_id for row in whole.logprobs] == list(whole.token_ids)
    assert all(len(row.top) == 2 for row in whole.logprobs)
    assert whole.usage.images_in == 1


def test_a_reply_is_sent_back_and_its_images_are_not_shown_again(real: Client) -> None:
    options: Any = {"ret_scale_factor": 50.0, "max_tokens": 4}
    first = real.chat(HELLO, **options)
    second = real.chat([*HELLO, first.message, *HELLO], **options)
    assert first.images
    assert second.images
    assert not {image.id for image in first.images} & {image.id for image in second.images}


def test_retrieval_images_and_scores(real: Client) -> None:
    images = real.retrieve("a dog", k=3, return_query_embedding=True)
    scores = [image.score or 0.0 for image in images.images]
    assert len(scores) == 3
    assert scores == sorted(scores, reverse=True)
    assert images.query_embedding is not None
    assert sum(value * value for value in images.query_embedding) == pytest.approx(1)
    best = images.images[0]
    assert real.image(best).startswith(b"\x89PNG")
    assert real.image(best, size=32)
    again = real.retrieve([best], k=1, exclude=[best.id])
    assert again.images[0].id != best.id
    yes, no = real.score(["a dog is", best], candidates=[" brown", " here and"])
    assert yes.tokens < no.tokens
    assert no.mean_log_likelihood == pytest.approx(no.log_likelihood / no.tokens)


def test_an_upload_is_used_in_a_message(real: Client, png: bytes) -> None:
    upload = real.upload(png)
    assert (upload.width, upload.height) == (64, 64)
    assert upload.expires_at > time.time()
    message = {"role": "user", "content": [upload, png, "what is this?"]}
    assert real.chat([message], max_tokens=2).usage.images_in == 2


def test_what_the_server_has(real: Client) -> None:
    [model] = real.models()
    assert real.chat(HELLO, max_tokens=1).model == model.id
    [collection] = real.collections()
    assert (collection.name, collection.default) == ("cc3m", True)
    real.health()
    real.ready()


@pytest.mark.parametrize(
    ("changes", "kind", "param"),
    [
        ({"temperature": 9.0}, InvalidRequest, "temperature"),
        ({"nonsense": 1}, InvalidRequest, "nonsense"),
        ({"collection": "nowhere"}, NotFound, "collection"),
    ],
)
def test_the_servers_errors_are_typed(
    real: Client, changes: Any, kind: type[ServerError], param: str
) -> None:
    with pytest.raises(kind) as whole:
        real.chat(HELLO, **changes)
    with pytest.raises(kind) as streamed:
        list(real.stream(HELLO, **changes))
    assert whole.value.param == streamed.value.param == param
    assert whole.value.message == streamed.value.message


def test_a_broken_image_is_refused(real: Client) -> None:
    with pytest.raises(InvalidRequest, match="Accepted are"):
        real.upload(b"\x89PNG\r\n\x1a\n and no more")
    with pytest.raises(InvalidRequest, match="text"):
        real.chat([{"role": "user", "content": [b"only words", "what is this?"]}])


def test_one_picture_in_every_form_is_one_picture(
    real: Client, server: str, png: bytes, tmp_path: Path
) -> None:
    """Greedy replies to the same pixels are the same."""
    path = tmp_path / "red.png"
    path.write_bytes(png)
    image = Image.open(BytesIO(png))
    url = f"data:image/png;base64,{base64.b64encode(png).decode()}"
    forms: list[Any] = [path, png, image, np.asarray(image), Picture(str(path)), Picture(url)]
    prompts = [[form, "what is this?"] for form in [*forms, real.upload(png)]]
    vectors = {
        real.retrieve(prompt, k=1, return_query_embedding=True).query_embedding
        for prompt in prompts
    }
    assert len(vectors) == 1
    black = real.retrieve([np.zeros_like(image), "what is this?"], return_query_embedding=True)
    assert black.query_embedding not in vectors


def test_an_image_of_a_reply_is_fetched_by_its_address(real: Client) -> None:
    [shown] = real.retrieve("a dog", k=1).images
    prompts: list[Any] = [[shown, "what"], [Picture(shown.address), "what"]]
    ours, fetched = (real.retrieve(p, k=1, return_query_embedding=True) for p in prompts)
    assert ours.query_embedding == pytest.approx(fetched.query_embedding, abs=1e-6)


def test_a_large_image_goes_as_an_upload(real: Client) -> None:
    noise = np.random.default_rng(0).integers(0, 256, size=(700, 700, 3), dtype=np.uint8)
    assert len(Picture(noise).read()) > INLINE_LIMIT
    for _ in range(2):
        reply = real.chat([{"role": "user", "content": [noise, "?"]}], max_tokens=1)
        assert reply.usage.images_in == 1


def test_a_conversation(real: Client, png: bytes, tmp_path: Path) -> None:
    talk = real.conversation(max_tokens=6, ret_scale_factor=50.0, ignore_eos=True)
    first = talk.send("show me a dog")
    assert first.images
    events = list(talk.stream(png, "and this?"))
    assert {TextDelta, ImageShown} & {type(event) for event in events}
    file = tmp_path / "talk.json"
    talk.save(file)
    again = real.conversation().load(file)
    assert again.messages == talk.messages
    third = talk.send("more")
    assert again.send("more").content == third.content
    assert third.usage.images_in == 1
    shown = [image.id for message in (first, third) for image in message.images]
    assert len(shown) == len(set(shown))
    talk.undo(talk.turns - 1)  # what this model says may come to nothing, and is no turn then
    assert talk.edit(0, "show me a dog").content == first.content


def test_a_reply_is_shown_with_its_pictures(real: Client, tmp_path: Path) -> None:
    reply = real.chat(HELLO, ret_scale_factor=50.0, max_tokens=4)
    html = reply._repr_html_()
    assert html.count('src="data:image/') == len(reply.images) > 0
    saved = reply.images[0].save(tmp_path / "best.png")
    assert saved.read_bytes() == real.image(reply.images[0])
    assert reply.images[0].address in str(reply)


def test_a_text_that_utf8_cannot_hold_is_refused(real: Client) -> None:
    with pytest.raises(InvalidRequest):
        real.chat("\ud800")


def test_both_clients_waited_until_it_was_ready(started: Started) -> None:
    """The fixture did. It came to listen, and later to be ready, while they waited."""
    for told in started.told:
        assert "cannot reach" in told[0]
    assert any("not ready yet" in said for told in started.told for said in told)


def test_the_terminal_chat(server: str, png: bytes, tmp_path: Any) -> None:
    path = tmp_path / "red.png"
    path.write_bytes(png)
    flags = ["--max-tokens", "20", "--temperature", "1", "--seed", "1", "--collection", "cc3m"]
    lines = (
        f"show me an elephant\n/image {path}\nwhat is this?\n/image {__file__}\nand this?\nbye\n"
    )
    done = piped(server, lines, *flags)
    assert done.stderr.splitlines()[0] == "red.png (7 kB) goes with the next message"
    assert re.fullmatch(r"error: .*Accepted are.*", done.stderr.splitlines()[-1])
    assert done.returncode == 1
    assert len(done.stdout.splitlines()) >= 3
    for address in re.findall(r"\[image: .*?\] (\S+)", done.stdout):
        assert address.startswith(f"{server}/v1/images/cc3m/")
