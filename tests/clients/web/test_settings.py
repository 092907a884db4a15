"""Options, the collection, the colours: what is chosen goes with the next request, and stays."""

import re
from dataclasses import replace
from typing import Any

import pytest
from playwright.sync_api import expect

from tests.clients.scripted import ScriptedServer, reply_stream
from tests.clients.web.browser import ChatPage
from tests.clients.web.scripting import CARD, answer, failure


@pytest.fixture
def settings(scripted: ScriptedServer, scripted_chat: ChatPage) -> ChatPage:
    """The page with its settings open."""
    scripted.script["/v1/chat"] = [reply_stream("yes")]
    scripted_chat.button("Settings and pictures").click()
    return scripted_chat


def write(page: ChatPage, label: str, text: str) -> None:
    field = page.page.get_by_label(label, exact=True)
    field.fill(text)
    field.blur()


def sent(scripted: ScriptedServer) -> dict[str, Any]:
    body = scripted.asked_for("/v1/chat")[-1].json
    return {name: value for name, value in body.items() if name not in ("messages", "stream")}


def test_nothing_is_sent_but_what_was_chosen(scripted: ScriptedServer, settings: ChatPage) -> None:
    settings.send("hello")
    assert sent(scripted) == {"collection": "demo", "truncation": "oldest_turns"}


def test_every_option_reaches_the_server(scripted: ScriptedServer, settings: ChatPage) -> None:
    scripted.script["/v1/collections"] = [answer(collections=[CARD, {**CARD, "name": "mine"}])]
    settings.page.reload()
    settings.page.get_by_role("combobox", name="Collection").select_option("mine")
    written = {
        "Temperature": "0.5",
        "Top p": "0.9",
        "Top k": "40",
        "Seed": "7",
        "Longest reply, in tokens": "64",
        "Words before the first picture": "3",
        "Places with pictures in a reply": "2",
        "Pictures at one place": "5",
        "Eagerness to show pictures": "1.3",
        "Least similarity": "-0.25",
        "Only pictures whose metadata match": '{"background": {"in": ["green"]}}',
    }
    for label, text in written.items():
        write(settings, label, text)
    settings.page.get_by_label("Never the same picture twice").uncheck()
    chosen = {
        "temperature": 0.5,
        "top_p": 0.9,
        "top_k": 40,
        "seed": 7,
        "max_tokens": 64,
        "min_word_tokens": 3,
        "max_num_rets": 2,
        "max_img_per_ret": 5,
        "ret_scale_factor": 1.3,
        "min_score": -0.25,
        "filter": {"background": {"in": ["green"]}},
        "exclude_shown": False,
        "collection": "mine",
        "truncation": "oldest_turns",
    }
    settings.send("hello")
    assert sent(scripted) == chosen
    settings.page.reload()
    settings.send("hello again")
    assert sent(scripted) == chosen
    settings.button("Back to the defaults").click()
    settings.send("once more")
    assert sent(scripted) == {"collection": "mine", "truncation": "oldest_turns"}


@pytest.mark.parametrize(
    ("label", "text", "said"),
    [
        ("Temperature", "3", "Temperature is 3; it can be 0 to 2."),
        ("Top p", "0", "Top p is 0; it can be above 0 to 1."),
        ("Top k", "1.5", "Top k is 1.5; it can be 0 to 1,000,000."),
        ("Seed", "many", "Seed is many; it can be from 0."),
        ("Only pictures whose metadata match", "{green", "write JSON"),
    ],
)
def test_what_cannot_be_is_said_at_once_and_not_sent(
    scripted: ScriptedServer, settings: ChatPage, label: str, text: str, said: str
) -> None:
    write(settings, label, text)
    expect(settings.page.locator("#settings").get_by_role("alert")).to_contain_text([said])
    expect(settings.page.get_by_label(label, exact=True)).to_have_attribute("aria-invalid", "true")
    settings.message.fill("hello")
    settings.message.press("Enter")
    expect(settings.page.locator("#problem")).to_contain_text(said)
    expect(settings.message).to_have_value("hello")
    assert scripted.asked_for("/v1/chat") == []


def test_an_option_that_the_server_refuses_is_shown(
    scripted: ScriptedServer, scripted_chat: ChatPage
) -> None:
    message = "filter.colour: no image has the field 'colour'"
    scripted.script["/v1/chat"] = [failure(400, "invalid_filter", message, "filter.colour")]
    scripted_chat.send("hello")
    alert = scripted_chat.page.locator("#settings").get_by_role("alert")
    expect(alert.filter(has_text=message)).to_be_visible()


def test_the_model_is_named(settings: ChatPage) -> None:
    shown = settings.page.locator("#settings").get_by_role("definition")
    expect(shown).to_have_text(["scripted", re.compile("20"), "./lm", "4", "2,048"])


def test_colours(settings: ChatPage) -> None:
    def paper() -> str:
        found = settings.page.evaluate("getComputedStyle(document.documentElement).backgroundColor")
        return str(found)

    settings.page.emulate_media(color_scheme="light")
    light = paper()
    settings.page.emulate_media(color_scheme="dark")
    dark = paper()
    assert light != dark
    settings.page.get_by_text("Light", exact=True).click()
    assert paper() == light
    settings.page.reload()
    assert paper() == light
    settings.page.get_by_text("As the system", exact=True).click()
    assert paper() == dark


def test_who_goes_elsewhere_before_the_server_is_known_sends_nothing(
    scripted: ScriptedServer, scripted_chat: ChatPage
) -> None:
    page = scripted_chat
    scripted.script["/v1/chat"] = [reply_stream("yes")]
    page.send("one")
    page.button("New conversation").click()
    whole = scripted.script["/v1/models"][0]
    (body,) = whole.chunks
    scripted.script["/v1/models"] = [replace(whole, chunks=(body[:9], body[9:]), pause=1.5), whole]
    page.page.reload()
    expect(page.message).to_be_enabled()
    page.message.fill("two")
    page.message.press("Enter")
    page.chats.click()
    expect(page.replies).to_have_count(1)
    expect(page.page.locator("#settings-body")).to_contain_text("running since")
    expect(page.message).to_have_value("two")
    assert len(scripted.asked_for("/v1/chat")) == 1
    expect(page.send("three")).to_contain_text("yes")
