"""Images in every form that callers have them in, read back by Pillow."""

import base64
import subprocess
import sys
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fromage_client import Picture, UnusablePicture
from fromage_client.pictures import content_type, is_picture

PIXELS = np.random.default_rng(0).integers(0, 256, size=(5, 7, 4), dtype=np.uint8)


def decoded(data: bytes) -> Image.Image:
    image = Image.open(BytesIO(data))
    image.load()
    return image


@pytest.mark.parametrize(
    ("array", "mode"),
    [
        (PIXELS, "RGBA"),
        (PIXELS[:, :, :3], "RGB"),
        (PIXELS[:, ::2, :1], "L"),
        (PIXELS[:, :, 0], "L"),
        (PIXELS[::-1, :, :3], "RGB"),
    ],
)
def test_an_array_comes_back_as_it_was(array: np.ndarray[Any, Any], mode: str) -> None:
    image = decoded(Picture(array).read())
    assert (image.format, image.mode) == ("PNG", mode)
    assert np.array_equal(np.asarray(image), array.reshape(np.asarray(image).shape))


def test_floats_are_from_0_to_1() -> None:
    image = decoded(Picture(np.array([[0.0, 0.5, 1.0]], dtype=np.float32)).read())
    assert np.asarray(image).tolist() == [[0, 128, 255]]


@pytest.mark.parametrize(
    ("array", "said"),
    [
        (np.zeros((2, 3, 2), np.uint8), r"not \(2, 3, 2\)"),
        (np.zeros((4, 2, 3, 3), np.uint8), r"not \(4, 2, 3, 3\)"),
        (np.zeros((0, 3), np.uint8), r"not \(0, 3\)"),
        (np.zeros((2, 3), np.int64), "uint8 or floats, not int64"),
        (np.full((2, 3), 2.0), "0 to 1; this one 2 to 2"),
        (np.full((2, 3), np.nan), "0 to 1; this one nan"),
    ],
)
def test_an_array_that_is_no_image(array: np.ndarray[Any, Any], said: str) -> None:
    with pytest.raises(UnusablePicture, match=said):
        Picture(array).read()


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "P", "1", "CMYK", "F", "HSV"])
def test_a_pil_image_of_any_mode(mode: str) -> None:
    image = Image.fromarray(PIXELS[:, :, :3]).convert(mode)
    back = decoded(Picture(image).read())
    assert back.format == "PNG"
    assert back.convert("RGB").tobytes() == image.convert("RGB").tobytes()


def test_a_photo_that_lies_on_its_side_is_put_upright() -> None:
    file = BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (30, 20)).save(file, "JPEG", exif=exif)
    assert decoded(Picture(Image.open(file)).read()).size == (20, 30)


def test_paths_bytes_and_data_urls(tmp_path: Path) -> None:
    path = tmp_path / "cat.gif"
    path.write_bytes(b"GIF89a")
    for source in (path, str(path), b"GIF89a"):
        assert Picture(source).read() == b"GIF89a"
    coded = base64.b64encode(b"GIF89a").decode()
    assert Picture(f"data:image/gif;base64,{coded}").read() == b"GIF89a"
    assert Picture("data:image/gif,GIF%3889a").read() == b"GIF889a"
    assert [Picture(s).name for s in (path, str(path), b"", "https://h/a.png")] == [
        *("cat.gif", "cat.gif"),
        *(None, None),
    ]
    assert Picture("HTTPS://h/a.png").url == "HTTPS://h/a.png"
    with pytest.raises(FileNotFoundError):
        Picture(tmp_path / "none.png").read()


@pytest.mark.parametrize("url", ["data:image/png;base64", "data:image/png;base64,*"])
def test_a_broken_data_url(url: str) -> None:
    with pytest.raises(UnusablePicture, match="data URL"):
        Picture(url).read()


def test_what_is_a_picture_and_what_is_not() -> None:
    assert all(map(is_picture, (Path("a"), b"", PIXELS, Image.new("L", (1, 1)), Picture("a"))))
    assert not any(map(is_picture, ("a", 3, [], {}, None)))
    with pytest.raises(UnusablePicture, match="not int"):
        Picture(3).read()  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("start", "kind"),
    [
        (b"RIFF\0\0\0\0WEBPVP8 ", "image/webp"),
        (b"RIFF\0\0\0\0WAVE", "application/octet-stream"),
        (b"GIF89a", "image/gif"),
        (b"MM\0*", "image/tiff"),
        (b"", "application/octet-stream"),
    ],
)
def test_the_first_bytes_tell_the_type(start: bytes, kind: str) -> None:
    assert content_type(start) == kind


def test_an_array_needs_no_pillow() -> None:
    program = (
        "import sys, numpy; from fromage_client import Picture;"
        "print(len(Picture(numpy.zeros((2, 2), 'uint8')).read()), 'PIL' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert done.stdout.split()[1] == b"False"
