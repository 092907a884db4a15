"""Replies that come slowly, are stopped, fail or are cut off."""

import pytest
from playwright.sync_api import FilePayload, expect

from tests.clients.scripted import (
    END,
    END_FRAME,
    START_FRAME,
    USAGE,
    Answer,
    ScriptedServer,
    frame,
    image_part,
    reply_stream,
    stream,
)
from tests.clients.web.browser import ChatPage
from tests.clients.web.scripting import answer, deltas, error_frame, failure


def ask(page: ChatPage, text: str) -> None:
    page.message.fill(text)
    page.message.press("Enter")


def test_words_show_as_they_come_and_can_be_stopped(
    scripted: ScriptedServer, scripted_chat: ChatPage
) -> None:
    slow = stream(START_FRAME, *deltas("one two ", "three "), stay=True)
    scripted.script["/v1/chat"] = [slow, reply_stream("as you like")]
    ask(scripted_chat, "count")
    reply = scripted_chat.replies.first
    expect(reply.locator(".text")).to_have_text("one two three ")
    expect(reply).to_have_attribute("aria-busy", "true")
    expect(scripted_chat.button("Send")).to_be_hidden()
    scripted_chat.screenshot("streaming")
    assert scripted_chat.findings() == []
    scripted_chat.button("Stop the reply").click()
    expect(reply).to_have_attribute("aria-busy", "false")
    expect(reply).to_contain_text("Stopped.")
    assert scripted.left.wait(10), "the server was not told"
    expect(scripted_chat.send("go on")).to_contain_text("as you like")
    history = scripted.asked_for("/v1/chat")[-1].json["messages"]
    assert [message["role"] for message in history] == ["user", "assistant", "user"]
    assert history[1]["content"] == [{"type": "text", "text": "one two three "}]


def test_escape_stops_too(scripted: ScriptedServer, scripted_chat: ChatPage) -> None:
    scripted.script["/v1/chat"] = [stream(START_FRAME, *deltas("one "), stay=True)]
    ask(scripted_chat, "count")
    expect(scripted_chat.replies.locator(".text")).to_have_text("one ")
    scripted_chat.message.press("Escape")
    expect(scripted_chat.replies).to_contain_text("Stopped.")


def test_a_failure_in_mid_stream_and_the_second_try(
    scripted: ScriptedServer, scripted_chat: ChatPage
) -> None:
    broken = stream(START_FRAME, *deltas("so far "), error_frame("generation_failed", "Out of ink"))
    scripted.script["/v1/chat"] = [broken, reply_stream("here it is")]
    reply = scripted_chat.send("write")
    expect(reply).to_contain_text("so far")
    expect(reply).to_contain_text("Out of ink")
    scripted_chat.screenshot("failure")
    assert scripted_chat.findings() == []
    scripted_chat.button("Try again").click()
    expect(scripted_chat.replies).to_have_count(1)
    expect(scripted_chat.finished(0)).to_contain_text("here it is")
    expect(scripted_chat.asked).to_have_count(1)
    first, second = scripted.asked_for("/v1/chat")
    assert first.json == second.json


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        (failure(429, "queue_full", "64 requests are waiting already; try again"), "64 requests"),
        (Answer((b"<html>",), status=502), "The server answered 502."),
        (stream(START_FRAME, *deltas("half "), cut=True), "The connection was lost"),
        (stream(START_FRAME, *deltas("half ")), "The connection was lost"),
    ],
    ids=["refused", "proxy", "cut", "no end"],
)
def test_what_went_wrong_is_said(
    scripted: ScriptedServer, scripted_chat: ChatPage, bad: Answer, said: str
) -> None:
    scripted.script["/v1/chat"] = [bad, reply_stream("better")]
    expect(scripted_chat.send("hello")).to_contain_text(said)
    scripted_chat.button("Try again").click()
    expect(scripted_chat.finished(0)).to_contain_text("better")


def test_a_reply_that_was_closed_upon_is_marked(
    scripted: ScriptedServer, scripted_chat: ChatPage
) -> None:
    scripted.script["/v1/chat"] = [stream(START_FRAME, *deltas("one "), stay=True)]
    ask(scripted_chat, "count")
    expect(scripted_chat.replies.locator(".text")).to_have_text("one ")
    scripted_chat.page.reload()
    expect(scripted_chat.replies).to_contain_text("The reply was cut off.")
    expect(scripted_chat.button("Try again")).to_be_visible()


def test_progress_while_the_server_starts(
    scripted: ScriptedServer, scripted_chat: ChatPage
) -> None:
    message = "not ready yet: building the collection demo: 1,200 of 4,500 images"
    scripted.script["/readyz"] = [failure(503, "not_ready", message)]
    page = scripted_chat
    page.page.reload()
    banner = page.page.locator("#banner")
    expect(banner).to_contain_text("building the collection demo: 1,200 of 4,500 images")
    bar = page.page.get_by_role("progressbar", name="Progress")
    expect(bar).to_have_js_property("position", 1200 / 4500)
    page.screenshot("starting")
    ask(page, "hello")
    expect(page.page.get_by_role("alert").first).to_contain_text("not ready yet")
    assert scripted.asked_for("/v1/chat") == []
    scripted.script["/readyz"] = [Answer()]
    expect(banner).to_be_hidden()
    scripted.script["/v1/chat"] = [reply_stream("good morning")]
    page.message.press("Enter")
    expect(page.finished(0)).to_contain_text("good morning")


def test_what_a_reply_leaves_out_is_said(scripted: ScriptedServer, scripted_chat: ChatPage) -> None:
    usage = {**USAGE, "dropped_turns": 2}
    end = frame("message.end", **{**END, "usage": usage, "finish_reason": "length"})
    scripted.script["/v1/chat"] = [stream(START_FRAME, *deltas("and so "), end)]
    reply = scripted_chat.send("tell me more")
    expect(reply).to_contain_text("The oldest 2 turns no longer fit and are left out.")
    expect(reply).to_contain_text("The reply reached the largest number of tokens.")


def test_pictures_of_one_place_stand_side_by_side(
    scripted: ScriptedServer, scripted_chat: ChatPage, png: bytes
) -> None:
    places = [(0, "a1"), (0, "a2"), (1, "a3")]
    parts = [
        frame("image", index=index, **{**image_part(id=id), "ret_index": ret})
        for index, (ret, id) in enumerate(places)
    ]
    for _, id in places:
        scripted.script[f"/v1/images/demo/{id}"] = [Answer((png,))]
    scripted.script["/v1/chat"] = [stream(START_FRAME, *parts, END_FRAME)]
    scripted_chat.send("show me")
    first, second, third = (one.bounding_box() for one in scripted_chat.pictures.all())
    assert first is not None
    assert second is not None
    assert third is not None
    assert (first["y"], third["x"]) == (second["y"], first["x"])
    assert third["y"] > first["y"]


def test_arrow_up_takes_the_last_message_up(
    scripted: ScriptedServer, scripted_chat: ChatPage
) -> None:
    scripted.script["/v1/chat"] = [reply_stream("one"), reply_stream("two")]
    scripted_chat.send("first try")
    scripted_chat.message.press("ArrowUp")
    expect(scripted_chat.message).to_have_value("first try")
    scripted_chat.button("Cancel").click()
    expect(scripted_chat.message).to_have_value("")
    scripted_chat.message.press("ArrowUp")
    scripted_chat.message.fill("second try")
    scripted_chat.message.press("Enter")
    expect(scripted_chat.finished(0)).to_contain_text("two")
    history = scripted.asked_for("/v1/chat")[-1].json["messages"]
    assert history == [{"role": "user", "content": [{"type": "text", "text": "second try"}]}]


def test_pictures_that_the_server_forgot_are_sent_again(
    scripted: ScriptedServer, scripted_chat: ChatPage, png: bytes
) -> None:
    def kept(id: str) -> Answer:
        return answer(id=id, width=64, height=64, expires_at=4_000_000_000)

    scripted.script["/v1/uploads"] = [kept("up_1"), kept("up_2")]
    gone = failure(404, "upload_not_found", "there is no upload 'up_1'", "messages.0.content.0")
    scripted.script["/v1/chat"] = [gone, reply_stream("a red square")]
    file = FilePayload(name="red.png", mimeType="image/png", buffer=png)
    scripted_chat.page.set_input_files("#files", file)
    expect(scripted_chat.page.locator(".attachment.ready")).to_have_count(1)
    expect(scripted_chat.send("what is this?")).to_contain_text("a red square")
    sent = [asked.json["messages"][0]["content"][0] for asked in scripted.asked_for("/v1/chat")]
    assert [part["image"] for part in sent] == [{"upload": "up_1"}, {"upload": "up_2"}]
    assert all(asked.body == png for asked in scripted.asked_for("/v1/uploads"))


def test_nothing_moves_when_a_picture_arrives(
    scripted: ScriptedServer, scripted_chat: ChatPage, png: bytes
) -> None:
    """The picture comes half a second after its event, and more words after that."""
    page = scripted_chat.page
    scripted.script["/v1/images/demo/a1"] = [
        Answer((png[:16], png[16:]), headers={"content-type": "image/png"}, pause=0.5)
    ]
    after = frame("text.delta", index=2, text="that was it")
    picture = frame("image", index=1, **image_part(width=640, height=480))
    scripted.script["/v1/chat"] = [
        stream(START_FRAME, *deltas("here it comes "), picture, after, END_FRAME, pause=0.2)
    ]
    page.evaluate(
        """() => {
          window.moved = [];
          const nodes = ({sources}) => sources.map(({node}) => node?.outerHTML ?? node?.data);
          new PerformanceObserver((list) => window.moved.push(...list.getEntries().map(nodes)))
            .observe({type: "layout-shift"});
        }"""
    )
    reply = scripted_chat.send("show me")
    image = reply.get_by_role("img", name="an elephant")
    expect(image).to_have_js_property("complete", True)
    assert image.evaluate("image => image.naturalWidth") == 64
    box = image.bounding_box()
    assert box is not None
    assert round(box["width"] / box["height"], 2) == round(640 / 480, 2)
    expect(reply).to_contain_text("that was it")
    assert page.evaluate("window.moved") == []
