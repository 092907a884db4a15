"""Noto's glyphs: the same things by another hand, never trained on, to test with."""

from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from fromage_weights.demo.glyphs import Artist

# Where distributions put the font (Debian: fonts-noto-color-emoji).
_PLACES = (
    "/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf",
    "/usr/share/fonts/google-noto-color-emoji-fonts/NotoColorEmoji.ttf",
    "/usr/share/fonts/noto/NotoColorEmoji.ttf",
)
_STRIKE = 109  # the only size of its bitmaps, in pixels


def noto_artist() -> Artist | None:
    """Draws with the installed Noto Color Emoji; None where it isn't installed."""
    path = next((place for place in _PLACES if Path(place).is_file()), None)
    if path is None:
        return None
    font = ImageFont.truetype(path, _STRIKE)

    def draw(codepoint: str) -> Image.Image:
        canvas = Image.new("RGBA", (160, 160))
        glyph = chr(int(codepoint, 16))
        ImageDraw.Draw(canvas).text((12, 12), glyph, font=font, embedded_color=True)
        return canvas

    return draw
