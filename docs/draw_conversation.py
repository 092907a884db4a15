"""Holds a conversation with a running demo server and draws it: the picture in the README.

python docs/draw_conversation.py --url http://127.0.0.1:8000 --out docs/conversation.png
"""

import argparse
import io
from collections.abc import Iterable, Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from fromage_client import Client, TextPart
from fromage_client.reply import ImagePart

WIDTH, MARGIN, GAP, PICTURE, FONT_SIZE = 760, 28, 14, 168, 19
PAGE, USER, INK = "#ffffff", "#e7efe9", "#1f2a24"

Block = str | Image.Image
Turn = tuple[str, list[Block]]


def hold_conversation(client: Client, requests: Sequence[str]) -> list[Turn]:
    """Asks in turn, then sends the last picture back as the user's own and asks about it."""
    turns: list[Turn] = []
    history: list[dict[str, object]] = []
    shown = b""
    for request in requests:
        history.append({"role": "user", "content": request})
        reply = client.chat(history)
        history.append(dict(reply.message))
        blocks: list[Block] = []
        for part in reply.content:
            if isinstance(part, TextPart):
                blocks.append(part.text.strip())
            elif isinstance(part, ImagePart):
                shown = client.image(part.image)
                blocks.append(_picture(shown))
        turns += [("user", [request]), ("assistant", blocks)]
    question = "what is this?"
    answer = client.chat([{"role": "user", "content": [shown, question]}])
    turns += [("user", [_picture(shown), question]), ("assistant", [answer.text.strip()])]
    return turns


def draw(turns: Iterable[Turn]) -> Image.Image:
    """The conversation on one page, the user's turns on the right."""
    font = ImageFont.load_default(FONT_SIZE)
    page = Image.new("RGB", (WIDTH, 4000), PAGE)
    canvas = ImageDraw.Draw(page)
    y = MARGIN
    for role, blocks in turns:
        for block in blocks:
            y += _draw_block(page, canvas, font, role, block, y) + GAP
        y += GAP
    return page.crop((0, 0, WIDTH, y + MARGIN - GAP))


def _draw_block(
    page: Image.Image,
    canvas: ImageDraw.ImageDraw,
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
    role: str,
    block: Block,
    y: int,
) -> int:
    """Draws one block with its top at y and returns its height in pixels."""
    if isinstance(block, Image.Image):
        x = WIDTH - MARGIN - block.width if role == "user" else MARGIN
        page.paste(block, (x, y))
        return block.height
    width = int(canvas.textlength(block, font=font))
    x = WIDTH - MARGIN - width - 2 * GAP if role == "user" else MARGIN
    height = FONT_SIZE + 2 * GAP
    if role == "user":
        canvas.rounded_rectangle((x, y, x + width + 2 * GAP, y + height), GAP, fill=USER)
        x += GAP
    canvas.text((x, y + height / 2), block, font=font, fill=INK, anchor="lm")
    return height


def _picture(data: bytes) -> Image.Image:
    picture = Image.open(io.BytesIO(data)).convert("RGB")
    picture.thumbnail((PICTURE, PICTURE))
    return picture


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--out", type=Path, default=Path("docs/conversation.png"))
    arguments = parser.parse_args()
    with Client(arguments.url) as client:
        turns = hold_conversation(
            client, ["hello", "show me an elephant", "three of them on green"]
        )
    draw(turns).save(arguments.out, optimize=True)


if __name__ == "__main__":
    main()
