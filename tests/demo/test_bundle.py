"""The bundle that ships: what a visitor tries first works."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fromage_weights.demo.classes import CLASSES
from fromage_weights.demo.scenes import render
from fromage_weights.demo.world import Scene
from fromage_weights.evaluation.decoding import greedy, greedy_to_ret
from fromage_weights.evaluation.queries import query_embeddings
from fromage_weights.evaluation.responder import Message, Responder
from fromage_weights.grounded import TextSegment
from fromage_weights.loading import LoadedBundle, bundle_directory, load_grounded_model
from fromage_weights.publishing import CARD
from tests.conftest import ROOT

LIMIT = 40 * 1024 * 1024


@pytest.fixture(scope="module")
def loaded() -> LoadedBundle:
    return load_grounded_model("demo", device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def responder(loaded: LoadedBundle) -> Responder:
    return Responder(loaded)


def _features(loaded: LoadedBundle, scenes: list[Scene], mode: str) -> torch.Tensor:
    assert loaded.vision is not None
    assert mode in ("crop", "squash")
    rng = np.random.default_rng(9)
    images = [Image.fromarray(render(scene, rng, 240)) for scene in scenes]
    pixels = [loaded.vision.preprocess(image, mode) for image in images]  # type: ignore[arg-type]
    return loaded.vision.encode(torch.stack(pixels))


def test_it_is_small_and_whole(loaded: LoadedBundle) -> None:
    files = [path for path in Path(bundle_directory("demo")).rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= LIMIT
    assert loaded.model.max_context >= 1024
    assert loaded.model.n_visual_tokens == 4


@pytest.mark.parametrize("asked", ["show me an elephant", "Show me a guitar", "a pizza please"])
def test_a_request_shows_the_thing(loaded: LoadedBundle, responder: Responder, asked: str) -> None:
    name = next(word for word in asked.split() if word in ("elephant", "guitar", "pizza"))
    ((reply,),) = responder.talks([[Message("user", asked)]])
    assert name in reply.text
    assert reply.query is not None
    others = ["dog", "car", "house", "rocket", "snowman", "apple", "cat", "tree", "robot"]
    scenes = [Scene((other,), 1, "blue") for other in others] + [Scene((name,), 1, "blue")]
    images = loaded.model.mappers.image_embeddings(_features(loaded, scenes, "crop"))
    assert int((images @ reply.query).argmax()) == len(others)


@pytest.mark.parametrize("said", ["hello", "who are you", "what can you do?", "thank you"])
def test_small_talk_shows_nothing(responder: Responder, said: str) -> None:
    ((reply,),) = responder.talks([[Message("user", said)]])
    assert reply.query is None
    assert len(reply.text) > 5


def test_unknown_things_are_refused(responder: Responder) -> None:
    asked = ["show me a gorilla", "show me a zorble", "do you have a picture of paris?"]
    for (reply,) in responder.talks([[Message("user", text)] for text in asked]):
        assert reply.query is None
        assert "don't have" in reply.text


@torch.inference_mode()
def test_queries_of_a_batch_are_those_of_whole_texts(
    loaded: LoadedBundle, responder: Responder
) -> None:
    """Read from the pass after the one that chose [RET], while others still write."""
    asked = (
        "a dog",
        "hello",
        "show me two dogs on a blue background, please",
        "thank you",
        "a car",
    )
    chats = [[Message("user", text)] for text in asked]
    model = loaded.model
    for chat, (reply,) in zip(chats, responder.talks(chats), strict=True):
        prompt = model.embed(responder.segments(chat))
        stop = {model.ret_token_id, *responder.ends}
        (ids,) = greedy(model.lm, [prompt], stop=stop, max_tokens=60)
        assert (reply.query is None) == (ids[-1] != model.ret_token_id)
        if reply.query is not None:
            whole = [*responder.segments(chat), TextSegment((*ids,))]
            assert torch.allclose(reply.query, query_embeddings(model, [whole])[0], atol=1e-4)
    # As many tokens as are allowed, the last one [RET].
    (ids,) = greedy(model.lm, [prompt], stop=stop, max_tokens=60)
    found, states, _ = greedy_to_ret(model, [prompt] * 2, stop=(), max_tokens=len(ids))
    assert found == [ids, ids]
    assert [*states] == [0, 1]
    found, states, _ = greedy_to_ret(model, [prompt], stop=(), max_tokens=len(ids) - 1)
    assert (found, states) == ([ids[:-1]], {})


def test_uploads_are_described(loaded: LoadedBundle, responder: Responder) -> None:
    """The object and background rows of the evaluation, on a few pictures."""
    names = [thing.name for thing in CLASSES[::2]]
    scenes = [Scene((name,), 1, "blue" if i % 2 else "green") for i, name in enumerate(names)]
    features = _features(loaded, scenes, "squash")
    talks = responder.talks([[Message("user", "what is this?", row)] for row in features])
    replies = [reply for (reply,) in talks]
    assert all(reply.query is None for reply in replies)
    named = [scene.objects[0] in reply.text for scene, reply in zip(scenes, replies, strict=True)]
    ground = [scene.background in reply.text for scene, reply in zip(scenes, replies, strict=True)]
    assert sum(named) >= 0.5 * len(scenes)
    assert sum(ground) >= 0.97 * len(scenes)


@torch.inference_mode()
def _read_whole(
    loaded: LoadedBundle, responder: Responder, chat: list[Message]
) -> tuple[str, torch.Tensor]:
    """The reply, up to [RET], and its query, of a chat that is read from its beginning."""
    model = loaded.model
    segments = responder.segments(chat)
    (ids,) = greedy(model.lm, [model.embed(segments)], stop={model.ret_token_id}, max_tokens=60)
    whole = [*segments, TextSegment((*ids,))]
    return model.tokenizer.decode(ids[:-1]), query_embeddings(model, [whole])[0]


def test_requests_add_up_over_the_turns(loaded: LoadedBundle, responder: Responder) -> None:
    said = [Message("user", text) for text in ("show me a dog", "make it three", "on blue")]
    hello = [Message("user", "hello there"), Message("user", "a cat on red please")]
    *talks, other = responder.talks([said, hello])
    chat: list[Message] = []
    for message, reply in zip(said, talks[0], strict=True):
        chat.append(message)
        text, query = _read_whole(loaded, responder, chat)
        assert reply.text == text
        assert reply.query is not None
        assert torch.allclose(reply.query, query, atol=1e-4)
        chat.append(Message("assistant", reply.text.strip() + "[RET]"))
    assert [reply.query is None for reply in other] == [True, False]
    assert reply.query is not None
    assert {"three", "dogs", "blue"} <= set(reply.text.strip(" !.").replace(".", "").split())


def test_it_is_published_with_its_card() -> None:
    """The licence and whose pictures they are go with it: the card stands in the bundle, behind
    what the hub wants to be told."""
    card = (bundle_directory("demo") / CARD).read_text()
    facts, text = card.removeprefix("---\n").split("---\n\n", 1)
    assert text == (ROOT / "weights" / "MODEL_CARD.md").read_text()
    assert "license: apache-2.0" in facts.splitlines()
    assert "CC BY-SA 4.0" in text
