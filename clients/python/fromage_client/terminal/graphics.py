"""Pictures as terminal escape sequences.

kitty: https://sw.kovidgoyal.net/kitty/graphics-protocol/
iTerm2: https://iterm2.com/documentation-images.html
Everywhere else that has 24-bit colour: half blocks, two pixels a character, with Pillow.
"""

import base64
import shutil
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from io import BytesIO

Painter = Callable[[bytes], str | None]
"""Image bytes to what shows them; None where this image can't be shown."""

ROWS = 16
_CHUNK = 4096
_PNG = b"\x89PNG\r\n\x1a\n"


def choose_painter(environ: Mapping[str, str], *, insist: bool) -> Painter | None:
    """The best way to show pictures in the terminal that `environ` describes.

    With `insist`, half blocks also where the terminal doesn't say that it has 24-bit colour.
    """
    painter = None if _multiplexed(environ) else _native(environ)
    coloured = insist or environ.get("COLORTERM") in ("truecolor", "24bit")
    if painter is None and coloured and find_spec("PIL"):
        return half_blocks
    return painter


def _multiplexed(environ: Mapping[str, str]) -> bool:
    """tmux and screen keep the outer terminal's variables but not its graphics."""
    return "TMUX" in environ or environ.get("TERM", "").startswith(("tmux", "screen"))


def _native(environ: Mapping[str, str]) -> Painter | None:
    program = environ.get("TERM_PROGRAM", "")
    if "KITTY_WINDOW_ID" in environ or environ.get("TERM") in ("xterm-kitty", "xterm-ghostty"):
        return kitty
    if program == "ghostty":
        return kitty
    if program in ("iTerm.app", "WezTerm", "mintty") or environ.get("LC_TERMINAL") == "iTerm2":
        return iterm2
    return None


def kitty(data: bytes) -> str | None:
    """Transmit and display, PNG, `ROWS` high; q=2 keeps the terminal from answering on stdin."""
    png = _as_png(data)
    if png is None:
        return None
    payload = base64.standard_b64encode(png).decode()
    chunks = [payload[start : start + _CHUNK] for start in range(0, len(payload), _CHUNK)]
    commands = []
    for number, chunk in enumerate(chunks, start=1):
        head = f"a=T,f=100,r={ROWS},q=2," if number == 1 else ""
        commands.append(f"\x1b_G{head}m={int(number < len(chunks))};{chunk}\x1b\\")
    return "".join(commands)


def iterm2(data: bytes) -> str:
    payload = base64.standard_b64encode(data).decode()
    return f"\x1b]1337;File=inline=1;height={ROWS};size={len(data)}:{payload}\x07"


def half_blocks(data: bytes) -> str | None:
    """`▀` with the upper pixel as its colour and the lower one as its background."""
    from PIL import Image, ImageOps

    try:
        with Image.open(BytesIO(data)) as opened:
            width = min(2 * ROWS * 2, shutil.get_terminal_size().columns)
            image = ImageOps.contain(opened.convert("RGB"), (width, 2 * ROWS))
    except (OSError, ValueError, Image.DecompressionBombError):
        return None
    pixels, stride = image.tobytes(), 3 * image.width
    pairs = range(0, (image.height - 1) * stride, 2 * stride)
    return "\n".join(_line(pixels[start : start + 2 * stride]) for start in pairs)


def _line(rows: bytes) -> str:
    """Two rows of RGB pixels, one above the other, as one line of characters."""
    upper, lower = rows[: len(rows) // 2], rows[len(rows) // 2 :]
    cells = (
        "\x1b[38;2;{};{};{};48;2;{};{};{}m▀".format(*upper[at : at + 3], *lower[at : at + 3])
        for at in range(0, len(upper), 3)
    )
    return "".join(cells) + "\x1b[0m"


def _as_png(data: bytes) -> bytes | None:
    if data.startswith(_PNG):
        return data
    if not find_spec("PIL"):
        return None
    from PIL import Image

    png = BytesIO()
    try:
        with Image.open(BytesIO(data)) as opened:
            opened.convert("RGB").save(png, "PNG")
    except (OSError, ValueError, Image.DecompressionBombError):
        return None
    return png.getvalue()
