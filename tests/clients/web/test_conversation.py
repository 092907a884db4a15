"""A whole conversation in a real browser, with the demo model."""

import base64
from pathlib import Path

import pytest
from playwright.sync_api import FilePayload, expect

from tests.clients.web import world
from tests.clients.web.browser import ChatPage


def send_picture(page: ChatPage, tmp_path: Path) -> None:
    item = world.sent_picture()
    (tmp_path / item.key).write_bytes(item.image)
    page.page.set_input_files("#files", tmp_path / item.key)
    expect(page.page.locator(".attachment.ready")).to_have_count(1)


def test_words_and_pictures(page: ChatPage) -> None:
    page.open_ready()
    page.screenshot("welcome")
    reply = page.send("show me three cats on a blue background")
    expect(reply.locator(".text").first).to_contain_text("three cats")
    image = reply.get_by_role("img", name="three cats on a blue background")
    expect(image).to_be_visible()
    assert image.evaluate("image => image.complete && image.naturalWidth > 0")
    expect(page.page.locator("#credit")).to_contain_text("OpenMoji")
    expect(page.page.locator("#credit")).to_contain_text("CC BY-SA 4.0")
    page.screenshot("conversation")


def test_a_picture_is_sent_and_described(page: ChatPage, tmp_path: Path) -> None:
    page.open_ready()
    send_picture(page, tmp_path)
    page.button(f"Remove {world.sent_picture().key}").click()
    expect(page.page.locator(".attachment")).to_have_count(0)
    send_picture(page, tmp_path)
    reply = page.send("what is this?")
    expect(page.asked.get_by_role("img")).to_be_visible()
    expect(reply.locator(".text")).to_contain_text("two dogs")
    page.screenshot("upload")


@pytest.mark.parametrize("way", ["drop", "paste"])
def test_pictures_are_dropped_and_pasted(page: ChatPage, way: str) -> None:
    """Beside a file that is none, which is refused."""
    page.open_ready()
    data = base64.b64encode(world.sent_picture().image).decode()
    page.page.evaluate(
        """([way, data]) => {
          const bytes = Uint8Array.from(atob(data), (char) => char.charCodeAt(0));
          const files = new DataTransfer();
          files.items.add(new File([bytes], "dogs.png", {type: "image/png"}));
          files.items.add(new File(["words"], "words.txt", {type: "text/plain"}));
          const options = {bubbles: true, cancelable: true};
          if (way === "paste") {
            const pasted = new ClipboardEvent("paste", {...options, clipboardData: files});
            document.querySelector("#message").dispatchEvent(pasted);
          } else {
            for (const step of ["dragenter", "dragover", "drop"]) {
              const event = new DragEvent(step, {...options, dataTransfer: files});
              document.querySelector("#log").dispatchEvent(event);
            }
          }
        }""",
        [way, data],
    )
    expect(page.page.locator(".attachment.ready")).to_have_count(1)
    expect(page.page.locator("#drop")).to_be_hidden()
    expect(page.send("what is this?")).to_contain_text("two dogs")


def test_a_file_that_cannot_be_read_is_not_sent(page: ChatPage) -> None:
    page.open_ready()
    broken = FilePayload(name="broken.png", mimeType="image/png", buffer=b"words")
    page.page.set_input_files("#files", broken)
    expect(page.page.locator(".attachment.failed")).to_contain_text("image")
    page.message.fill("what is this?")
    page.message.press("Enter")
    expect(page.page.locator("#problem")).to_contain_text("broken.png could not be sent")
    expect(page.replies).to_have_count(0)
    page.button("Remove broken.png").click()
    expect(page.page.locator("#problem")).to_be_hidden()
    page.message.press("Enter")
    page.finished(0)


def test_a_shown_picture_is_asked_about(page: ChatPage) -> None:
    page.open_ready()
    page.send("show me three cats on a blue background")
    page.pictures.click()
    dialog = page.page.get_by_role("dialog")
    expect(dialog.get_by_role("meter", name="Similarity")).to_be_visible()
    expect(dialog).to_contain_text("3-cat-blue.png")
    expect(dialog).to_contain_text("CC BY-SA 4.0")
    dialog.get_by_role("button", name="Ask about this picture").click()
    expect(page.message).to_be_focused()
    expect(page.send("how many are there?")).to_contain_text("three")
    expect(page.asked.last.get_by_role("img")).to_be_visible()


def test_an_example_starts_it(page: ChatPage) -> None:
    page.open_ready()
    page.examples.get_by_role("button", name="what is this?").click()
    expect(page.finished(0)).to_contain_text("foxes")


def test_it_is_there_after_a_reload(page: ChatPage, tmp_path: Path) -> None:
    page.open_ready()
    send_picture(page, tmp_path)
    page.send("what is this?")
    page.send("show me an elephant")
    words = page.page.locator("#messages").inner_text()
    page.page.reload()
    expect(page.replies).to_have_count(2)
    assert page.page.locator("#messages").inner_text() == words
    sent = page.asked.first.get_by_role("img")
    expect(sent).to_have_js_property("complete", True)
    assert sent.evaluate("image => image.naturalWidth") == 240
    page.send("and two of them")
    expect(page.replies).to_have_count(3)


def test_edit_and_resend(page: ChatPage, tmp_path: Path) -> None:
    page.open_ready()
    send_picture(page, tmp_path)
    page.send("what is this?")
    page.send("show me an elephant")
    first = page.asked.first
    first.hover()
    first.get_by_role("button", name="Edit and send again").click()
    expect(page.message).to_have_value("what is this?")
    expect(page.page.locator(".attachment.ready")).to_have_count(1)
    expect(page.page.locator("#editing")).to_be_visible()
    page.message.fill("how many are there?")
    page.message.press("Enter")
    expect(page.asked).to_have_count(1)
    expect(page.replies).to_have_count(1)
    expect(page.finished(0)).to_contain_text("two")
    expect(page.page.locator("#editing")).to_be_hidden()


@pytest.mark.parametrize("end", ["Escape", "Enter", "Cancel"])
def test_editing_keeps_what_was_begun(page: ChatPage, tmp_path: Path, end: str) -> None:
    page.open_ready()
    page.send("hello")
    send_picture(page, tmp_path)
    page.message.fill("half a sen")
    page.asked.hover()
    page.asked.get_by_role("button", name="Edit and send again").click()
    expect(page.message).to_have_value("hello")
    expect(page.page.locator(".attachment")).to_have_count(0)
    if end == "Cancel":
        page.button("Cancel").click()
    else:
        page.message.fill("good evening")
        page.message.press(end)
    expect(page.page.locator("#editing")).to_be_hidden()
    expect(page.message).to_have_value("half a sen")
    expect(page.page.locator(".attachment.ready")).to_have_count(1)
    expect(page.asked).to_contain_text(["good evening" if end == "Enter" else "hello"])


def test_several_conversations(page: ChatPage) -> None:
    page.open_ready()
    page.send("hello")
    page.button("New conversation").click()
    page.send("show me a guitar")
    chats = page.chats
    expect(chats.filter(has_text="hello")).to_have_count(1)
    expect(chats.filter(has_text="show me a guitar")).to_have_attribute("aria-current", "page")
    chats.filter(has_text="hello").click()
    expect(page.asked).to_have_text(["You\nhello"], use_inner_text=True)
    page.page.go_back()
    expect(page.asked).to_have_text(["You\nshow me a guitar"], use_inner_text=True)
    page.page.go_forward()
    expect(page.asked).to_have_text(["You\nhello"], use_inner_text=True)

    page.button("This conversation: rename, export, delete").click()
    page.button("Rename…").click()
    page.page.get_by_role("textbox", name="Title").fill("Greetings")
    page.button("Rename").click()
    expect(chats.filter(has_text="Greetings")).to_have_count(1)

    page.button("This conversation: rename, export, delete").click()
    page.button("Delete…").click()
    page.button("Delete").click()
    expect(chats.filter(has_text="Greetings")).to_have_count(0)
    expect(page.replies).to_have_count(0)
    page.page.reload()
    expect(chats.filter(has_text="show me a guitar")).to_have_count(1)
    expect(chats.filter(has_text="Greetings")).to_have_count(0)
