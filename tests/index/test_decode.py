from __future__ import annotations

import io
import struct
import tracemalloc
import zlib

import numpy as np
import pytest
from PIL import Image

from fromage_index.decode import MAX_PIXELS, decode_image, inspect_image
from fromage_index.errors import UnreadableImage
from fromage_index.sniff import ACCEPTED, sniff_content_type
from tests.index.pictures import CORNERS, corners, encode, plain

FORMATS = ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"]
SVG = b'<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>'


def assert_corners(image: Image.Image, tolerance: int = 60) -> None:
    assert type(image) is Image.Image
    assert (image.mode, image.size) == ("RGB", (60, 40))
    for place, want in zip([(10, 10), (50, 10), (10, 30)], CORNERS.values(), strict=True):
        found = np.array(image.getpixel(place), dtype=int)
        assert np.abs(found - want).max() <= tolerance, (place, found, want)


@pytest.mark.parametrize("format", FORMATS)
def test_every_accepted_format(format: str) -> None:
    data = encode(corners(), format)
    assert_corners(decode_image(data))
    info = inspect_image(io.BytesIO(data))
    assert (info.content_type, info.width, info.height) == (f"image/{format.lower()}", 60, 40)


@pytest.mark.parametrize("format", ["PNG", "BMP", "TIFF"])
def test_rgb_pixels_are_untouched(format: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (31, 47, 3), dtype=np.uint8)
    decoded = decode_image(encode(Image.fromarray(noise), format))
    np.testing.assert_array_equal(np.asarray(decoded), noise)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_undone(format: str, orientation: int) -> None:
    undone_by = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    stored = corners()
    if orientation in undone_by:
        stored = stored.transpose(undone_by[orientation])
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encode(stored, format, exif=exif)
    assert_corners(decode_image(data))
    info = inspect_image(io.BytesIO(data))
    assert (info.width, info.height) == (60, 40)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data:UserWarning")
def test_broken_exif_does_not_spoil_the_picture() -> None:
    data = encode(corners(), "JPEG", exif=b"Exif\0\0MM\0*" + b"\xff" * 40)
    assert_corners(decode_image(data))


@pytest.mark.parametrize(("mode", "format"), [("CMYK", "JPEG"), ("CMYK", "TIFF"), ("P", "PNG")])
def test_cmyk_and_palette(mode: str, format: str) -> None:
    assert_corners(decode_image(encode(corners().convert(mode), format)))


@pytest.mark.parametrize("mode", ["1", "L", "LA"])
def test_greyscale(mode: str) -> None:
    half = Image.new("L", (20, 10), 0)
    half.paste(255, (10, 0, 20, 10))
    decoded = decode_image(encode(half.convert(mode), "PNG"))
    assert decoded.getpixel((2, 5)) == (0, 0, 0)
    assert decoded.getpixel((17, 5)) == (255, 255, 255)


@pytest.mark.parametrize("format", ["PNG", "TIFF"])
def test_sixteen_bits(format: str) -> None:
    ramp = np.linspace(0, 65535, 256).astype(np.uint16).reshape(16, 16)
    decoded = np.asarray(decode_image(encode(Image.fromarray(ramp), format)))
    np.testing.assert_array_equal(decoded[..., 0].ravel(), np.arange(256))


@pytest.mark.parametrize(
    ("values", "want"),
    [
        (np.array([[0, 65535], [257, 514]], np.int32), [[0, 255], [1, 2]]),
        (np.array([[-1000, 1000], [0, 0]], np.int32), [[0, 255], [128, 128]]),
        (np.array([[0.0, 1.0], [0.2, np.nan]], np.float32), [[0, 255], [51, 0]]),
        (np.array([[0.0, 255.0], [9.0, 8.0]], np.float32), [[0, 255], [9, 8]]),
    ],
)
def test_wide_numbers(values: np.ndarray, want: list[list[int]]) -> None:
    decoded = np.asarray(decode_image(encode(Image.fromarray(values), "TIFF")))
    np.testing.assert_array_equal(decoded[..., 1], want)


def test_alpha_on_white() -> None:
    image = Image.new("RGBA", (20, 10), (0, 0, 255, 255))
    image.paste((255, 0, 0, 0), (0, 0, 10, 10))
    for format in ("PNG", "WEBP", "TIFF"):
        decoded = decode_image(
            encode(image, format, **({"lossless": True} if format == "WEBP" else {}))
        )
        assert decoded.getpixel((2, 5)) == (255, 255, 255), format
        assert decoded.getpixel((17, 5)) == (0, 0, 255), format


def test_transparent_palette_entry_is_white() -> None:
    image = Image.new("P", (8, 8), 0)
    image.putpalette([200, 0, 0, 0, 200, 0])
    image.paste(1, (4, 0, 8, 8))
    decoded = decode_image(encode(image, "PNG", transparency=0))
    assert decoded.getpixel((1, 1)) == (255, 255, 255)
    assert decoded.getpixel((6, 1)) == (0, 200, 0)


@pytest.mark.parametrize("format", ["GIF", "WEBP", "PNG", "TIFF"])
def test_first_frame_of_several(format: str) -> None:
    frames = [plain((220, 10, 10)), plain((10, 220, 10))]
    data = encode(frames[0], format, save_all=True, append_images=frames[1:])
    red, green, _ = np.asarray(decode_image(data)).reshape(-1, 3).mean(axis=0)
    assert red > 200
    assert green < 50


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("kept", [0.02, 0.5, 0.9])
def test_truncated(format: str, kept: float) -> None:
    noise = np.random.default_rng(1).integers(0, 256, (80, 80, 3), dtype=np.uint8)
    data = encode(Image.fromarray(noise), format)
    with pytest.raises(UnreadableImage, match="damaged or cut short"):
        decode_image(data[: int(len(data) * kept)])


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"", "empty"),
        (SVG, "SVG"),
        (b"<svg/>", "SVG"),
        (b"<!DOCTYPE html><html><body>no</body></html>", "HTML"),
        ("a text renamed .png, with ümlauts".encode() * 40, "text"),
        (b"%PDF-1.7 ...", "PDF"),
        (b"\0\0\0 ftypheic" + b"\0" * 50, "HEIC"),
        (b"PK\x03\x04" + b"\0" * 50, "ZIP"),
        (bytes(range(256)) * 4, "unknown kind"),
    ],
)
def test_what_is_no_image_is_named(data: bytes, what: str) -> None:
    with pytest.raises(UnreadableImage, match=what) as caught:
        decode_image(data)
    assert ACCEPTED in str(caught.value)
    assert sniff_content_type(data) is None


def test_a_magic_number_is_not_enough() -> None:
    for start in (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF89a", b"BM", b"II*\0"):
        with pytest.raises(UnreadableImage):
            decode_image(start + b"nothing of the kind" * 30)


def bomb(width: int, height: int) -> bytes:
    """A PNG whose header promises more than is there."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0" * 1000))


@pytest.mark.parametrize(("width", "height"), [(8001, 8001), (12_000, 9_000), (60_000, 60_000)])
def test_huge_dimensions_are_refused_by_the_header(width: int, height: int) -> None:
    with pytest.raises(UnreadableImage, match=f"{MAX_PIXELS:,}"):
        decode_image(bomb(width, height))


def test_limits_are_the_callers() -> None:
    data = encode(plain((1, 2, 3), (20, 10)))
    assert decode_image(data, max_pixels=200).size == (20, 10)
    with pytest.raises(UnreadableImage, match="20 x 10; at most 199 pixels"):
        decode_image(data, max_pixels=199)


def test_endless_strips_are_refused() -> None:
    assert decode_image(encode(plain((1, 2, 3), (200, 1)))).size == (200, 1)
    with pytest.raises(UnreadableImage, match="201 x 1; one side"):
        decode_image(encode(plain((1, 2, 3), (201, 1))))
    with pytest.raises(UnreadableImage):
        decode_image(bomb(0, 5))


def tiled_tiff(tile: int) -> bytes:
    """A 16 x 16 grey TIFF of one tile, `tile` pixels wide and high."""
    values = {
        256: 16,
        257: 16,
        258: 8,
        259: 1,
        262: 1,
        277: 1,
        322: tile,
        323: tile,
        324: 200,
        325: 256,
    }
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in values.items())
    head = b"II*\0" + struct.pack("<IH", 8, len(values)) + entries + struct.pack("<I", 0)
    return head.ljust(200, b"\0") + b"\x80" * 256


def test_a_tiff_with_a_giant_tile_is_refused() -> None:
    assert decode_image(tiled_tiff(16)).getpixel((3, 3)) == (128, 128, 128)
    with pytest.raises(UnreadableImage, match="at most"):
        decode_image(tiled_tiff(30_000))


def test_a_deep_image_takes_little_more_than_its_pixels() -> None:
    """16 million 16-bit pixels are 32 MB; as float64 they would be 128 MB, several times over."""
    data = encode(Image.fromarray(np.full((4000, 4000), 40_000, np.uint16)), "PNG")
    tracemalloc.start()
    try:
        image = decode_image(data)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert image.getpixel((5, 5)) == (156, 156, 156)
    assert peak < 150_000_000
