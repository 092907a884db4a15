"""Where the default differs from the reference, on the recorded prompts: the right column of the
table, beside the left one that test_reference_replay.py holds."""

import json
from typing import Any

import numpy as np
import pytest

from tests.server.recording import Case, Replay, interleaved, queries
from tests.server.test_reference_replay import EMBEDDINGS, succeeded


def generating(replay: Replay) -> list[Case]:
    return [case for case in succeeded(replay) if case.max_tokens]


def texts(content: list[dict[str, str]]) -> list[str]:
    return [part["text"] for part in content if part["type"] == "text"]


def test_no_cuts_and_no_ret_in_text(replay: Replay) -> None:
    """The same tokens where no [RET] is masked; later text is kept."""
    longer = 0
    for case in generating(replay):
        reply = replay.generate(case, ignore_eos=True, max_num_rets=case.max_tokens)
        assert reply["token_ids"] == case.output["generated_ids"], case.id
        assert reply["finish_reason"] == "length"
        assert not any("[RET]" in text for text in texts(reply["content"]))
        cut = "".join(texts(replay.as_reference(case)["content"])).replace(" [RET]", "")
        longer += len("".join(texts(reply["content"]))) > len(cut)
    assert longer > 0


def test_the_first_images_are_the_same(replay: Replay) -> None:
    for case in generating(replay):
        if case.output["rets"]:
            content = replay.generate(case, ignore_eos=True)["content"]
            images = [part["image"]["key"] for part in content if part.get("ret_index") == 0]
            assert images == case.output["rets"][0]["returned"], case.id


def test_rets_are_masked_once_the_number_is_used(replay: Replay) -> None:
    ret_id = max(max(case.output["input_layout"]) for case in replay.cases[:2])
    for case in generating(replay):
        reply = replay.generate(case, ignore_eos=True)
        assert reply["token_ids"].count(ret_id) <= case.options["max_num_rets"], case.id
        free = case.output["generated_ids"].count(ret_id)
        assert (reply["token_ids"] == case.output["generated_ids"]) == (
            free <= case.options["max_num_rets"]
        ), case.id


def test_a_stop_string_ends_the_reply(replay: Replay) -> None:
    stopped = 0
    for case in generating(replay):
        reply = replay.generate(case, stop=["\n"])
        assert not any("\n" in text for text in texts(reply["content"])), case.id
        assert len(reply["token_ids"]) <= case.max_tokens
        stopped += reply["finish_reason"] == "stop"
    assert stopped > 0


def test_max_tokens_0_reads_the_right_positions(replay: Replay) -> None:
    moved = 0
    for case in succeeded(replay):
        if case.max_tokens or not case.output["rets"]:
            continue
        every = replay.arrays[f"{case.id}/all_embeddings"]
        found = dict(queries(replay.generate(case)["content"]))
        for ret, place in enumerate(case.output["true_ret_layout_positions"][: len(found)]):
            np.testing.assert_allclose(found[ret], every[place], rtol=0, atol=EMBEDDINGS)
            moved += place != case.output["ret_positions"][ret]
    assert moved > 0


def test_max_tokens_0_keeps_the_text(replay: Replay) -> None:
    prompt = [{"type": "text", "text": "A dog. It barks [RET] and\nlater text."}]
    reply = replay.post("/v1/generate", {"prompt": prompt, "max_tokens": 0, "max_num_rets": 1})
    assert texts(reply["content"]) == ["A dog. It barks", "and\nlater text."]
    assert reply["usage"]["completion_tokens"] == 0


def test_what_the_reference_raises_on_works(replay: Replay) -> None:
    raising = [case for case in replay.cases if case.output["error"] is not None]
    for case in raising:
        reply = replay.generate(case, ignore_eos=True)
        assert len(reply["token_ids"]) == case.max_tokens, case.id
        if "retlast" in case.id:
            assert any(part["type"] == "image" for part in reply["content"]), case.id


def test_retrieve_appends_the_missing_ret(replay: Replay) -> None:
    """The query of /v1/retrieve is that of the same prompt with [RET] at its end."""
    for case in succeeded(replay):
        if case.max_tokens or not case.output["rets"]:
            continue
        text = case.prompt[-1]["text"].removesuffix("[RET]")
        prompt = [*case.prompt[:-1], {"type": "text", "text": text}]
        body = {"prompt": prompt, "k": 20, "return_query_embedding": True}
        answer = replay.post("/v1/retrieve", body)
        last = case.output["true_ret_layout_positions"][-1]
        expected = replay.arrays[f"{case.id}/all_embeddings"][last]
        np.testing.assert_allclose(answer["query_embedding"], expected, rtol=0, atol=EMBEDDINGS)
        scores = [image["score"] for image in answer["images"]]
        assert len(scores) == 20
        assert scores == sorted(scores, reverse=True)


@pytest.mark.parametrize("compat", [True, False])
def test_likelihood_of_answers(replay: Replay, compat: bool) -> None:
    """One round of the recorded visual dialogue. The recording's proper losses count the begin
    token in front of the answer, so it is written out for the default."""
    from safetensors.numpy import load_file

    file = replay.path / "eval.json"
    if not file.is_file():
        pytest.skip("the evaluation data is only in the full recording")
    dialogues = json.loads(file.read_text())["visdial_answers"]
    data = dialogues["input"]["data"]
    losses = load_file(replay.path / "eval.safetensors")
    name = "losses" if compat else "losses_shifted_not_reference"
    for row in (0, 13):
        dialogue = data["dialogs"][row // 10]
        image, turn = dialogue["image_id"], dialogue["dialog"][row % 10]
        answers = [data["answers"][option] for option in turn["answer_options"][:12]]
        text = dialogues["contexts"][row]["text"]
        context = replay.parts([{"image": f"img_{image:03d}.png"}, {"text": text}])
        candidates = answers if compat else ["</s>" + answer for answer in answers]
        body = {"prompt": context, "candidates": candidates, "reference_compat": compat}
        scores = replay.post("/v1/score", body)["scores"]
        found = [-score["log_likelihood"] for score in scores]
        np.testing.assert_allclose(
            found, losses[f"visdial_answers/{name}"][row, : len(found)], rtol=0, atol=1e-3
        )


def test_the_chat_template_is_that_of_the_reference_s_demo(replay: Replay) -> None:
    """Messages give the same input as the recorded demo-style prompts, so the same replies."""
    turns = [case for case in replay.cases if case.id.startswith("dlg_demo_t")]
    if not turns:
        pytest.skip("the dialogue is only in the full recording")
    for case in turns:
        image, _, *items = case.prompt
        messages = [as_message(item["text"]) for item in items]
        messages[0]["content"].insert(0, image)
        reply = replay.post("/v1/chat", {"messages": messages, **case.options})
        expected = interleaved(replay.as_reference(case)["content"])
        assert reply["usage"]["prompt_tokens"] == len(case.output["input_layout"])
        text = expected[0].removesuffix(" [RET]").lstrip()
        assert interleaved(reply["message"]["content"])[0] == text, case.id


def as_message(text: str) -> dict[str, Any]:
    question = text.startswith("Q: ")
    words = text.removeprefix("Q: ").removesuffix("\nA:") if question else text.strip()
    role = "user" if question else "assistant"
    return {"role": role, "content": [{"type": "text", "text": words}]}
