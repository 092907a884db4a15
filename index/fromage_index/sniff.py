"""What a file is, by its first bytes; names and declared types are not believed."""

from __future__ import annotations

CONTENT_TYPES = {
    "JPEG": "image/jpeg",
    "PNG": "image/png",
    "WEBP": "image/webp",
    "GIF": "image/gif",
    "BMP": "image/bmp",
    "TIFF": "image/tiff",
}
ACCEPTED = "Accepted are JPEG, PNG, WebP, GIF, BMP and TIFF images."
IMAGE_SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"}
)

_MAGIC = (
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"GIF87a", "image/gif"),
    (b"GIF89a", "image/gif"),
    (b"BM", "image/bmp"),
    (b"II*\x00", "image/tiff"),
    (b"MM\x00*", "image/tiff"),
    (b"II+\x00", "image/tiff"),
    (b"MM\x00+", "image/tiff"),
)
_OTHERS = (
    (b"%PDF", "a PDF"),
    (b"PK\x03\x04", "a ZIP archive"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"\x00\x00\x01\x00", "a Windows icon"),
    (b"8BPS", "a Photoshop file"),
    (b"\xff\x0a", "a JPEG XL image"),
    (b"\x00\x00\x00\x0cJXL ", "a JPEG XL image"),
)


def sniff_content_type(data: bytes) -> str | None:
    """The MIME type of an accepted image format, or None."""
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "image/webp"
    return next((kind for magic, kind in _MAGIC if data.startswith(magic)), None)


def describe(data: bytes) -> str:
    """A noun phrase for bytes that are no accepted image, for an error message."""
    start = data[:1024].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if start.startswith((b"<?xml", b"<svg", b"<!doctype svg")) and b"<svg" in start:
        return "an SVG drawing"
    if start.startswith((b"<!doctype html", b"<html")):
        return "an HTML page"
    if data[4:8] == b"ftyp":
        return "a HEIC, AVIF or video file"
    found = next((noun for magic, noun in _OTHERS if data.startswith(magic)), None)
    return found or ("text" if _is_text(data[:512]) else "of an unknown kind")


def _is_text(data: bytes) -> bool:
    text = data.decode("utf-8", errors="ignore")
    # Cutting at 512 bytes may split the last character, nothing more.
    return len(text.encode()) >= len(data) - 3 and all(
        c.isprintable() or c in "\r\n\t" for c in text
    )
