"""Pixels as a PNG file (RFC 2083), without an imaging library."""

import struct
import zlib

SIGNATURE = b"\x89PNG\r\n\x1a\n"
_COLOUR_TYPE = {1: 0, 3: 2, 4: 6}
"""By channels: grey, RGB, RGBA."""
CHANNELS = tuple(_COLOUR_TYPE)


def encode_png(pixels: bytes, width: int, height: int, channels: int) -> bytes:
    """`pixels`: rows from the top, a byte for each of the 1, 3 or 4 channels."""
    stride = width * channels
    rows = (pixels[start : start + stride] for start in range(0, height * stride, stride))
    unfiltered = b"".join(b"\0" + row for row in rows)
    header = struct.pack(">IIBBBBB", width, height, 8, _COLOUR_TYPE[channels], 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(unfiltered)), (b"IEND", b""))
    return SIGNATURE + b"".join(_chunk(kind, data) for kind, data in chunks)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
