"""Pairs as people have them."""

import io
import struct
import tarfile
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageOps

from fromage_weights.errors import TrainingDataInvalid
from fromage_weights.images import open_for_crop, open_image
from fromage_weights.training.sources import CaptionSource, Limited, open_source
from tests.weights.training.world import caption, encoded, picture, write_tars, write_tsv


def hub_dataset(folder: Path, pairs: int) -> Path:
    datasets: Any = pytest.importorskip("datasets")
    rows = {
        "image": [{"bytes": encoded(i), "path": f"{i}.png"} for i in range(pairs)],
        "caption": [caption(i) for i in range(pairs)],
    }
    features = datasets.Features({"image": datasets.Image(), "caption": datasets.Value("string")})
    datasets.Dataset.from_dict(rows, features=features).save_to_disk(str(folder))
    return folder


@pytest.fixture(params=["tsv", "tars", "hub"])
def source(request: pytest.FixtureRequest, tmp_path: Path) -> CaptionSource:
    makers = {
        "tsv": lambda: write_tsv(tmp_path / "a", 10),
        "tars": lambda: write_tars(tmp_path / "b", 10),
        "hub": lambda: hub_dataset(tmp_path / "c", 10),
    }
    return open_source(makers[request.param]())


def test_every_form_gives_the_same_pairs(source: CaptionSource) -> None:
    assert len(source) == 10
    found = {(source.caption(i), source.image(i)) for i in range(10)}
    assert found == {(caption(i), encoded(i)) for i in range(10)}
    assert len({source.key(i) for i in range(10)}) == 10
    assert all(open_image(source.image(i)).mode == "RGB" for i in range(3))


def test_a_limited_source_is_another_source(source: CaptionSource) -> None:
    first = Limited(source, 3)
    assert len(first) == 3
    assert first.image(2) == source.image(2)
    assert first.fingerprint != source.fingerprint
    assert len(Limited(source, 50)) == 10


def test_the_images_of_a_table_may_lie_elsewhere(tmp_path: Path) -> None:
    table = write_tsv(tmp_path / "a", 2)
    moved = tmp_path / "moved.tsv"
    moved.write_bytes(table.read_bytes())
    with pytest.raises(OSError, match="images"):
        open_source(moved).image(0)
    assert open_source(moved, tmp_path / "a").image(1) == encoded(1)


def test_quotes_and_tabs_in_captions(tmp_path: Path) -> None:
    table = tmp_path / "t.tsv"
    table.write_text('image\tcaption\nx.png\t"a ""big"" dog"\ny.png\tit\'s a 5" disc\n')
    source = open_source(table)
    assert [source.caption(i) for i in range(2)] == ['a "big" dog', "it's a 5\" disc"]


def test_a_quote_that_stays_open_takes_no_line_with_it(tmp_path: Path) -> None:
    lines = ['"an open quote\t0.png', "b\t1.png", '"Stop" sign\t2.png', '6" disc "x"\t3.png']
    table = _file(tmp_path / "t.tsv", "\r\n".join(["caption\timage", *lines]).encode("utf-8-sig"))
    source = open_source(table)
    found = [(source.caption(i), source.key(i)) for i in range(len(source))]
    assert found == [tuple(line.split("\t")) for line in lines]


def test_a_row_without_an_image_says_so(tmp_path: Path) -> None:
    source = open_source(_file(tmp_path / "t.tsv", b"caption\timage\na\t\nb\n"))
    for i in range(2):
        with pytest.raises(OSError, match="names no image"):
            source.image(i)


def _tar(file: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(file, "w") as archive:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return file


def _pairs(source: CaptionSource) -> list[tuple[str, str, bytes | str]]:
    found: list[tuple[str, str, bytes | str]] = []
    for i in range(len(source)):
        try:
            image: bytes | str = source.image(i)
        except OSError as error:
            image = str(error)
        found.append((source.key(i).removeprefix("x.tar:"), source.caption(i), image))
    return found


def test_the_json_caption_serves_where_there_is_no_text(tmp_path: Path) -> None:
    members = {
        "a/1.jpg": encoded(0),
        "a/1.json": b'{"caption": "from json"}',
        "b/1.PNG": encoded(1),
        "b/1.TXT": b"from text\n",
        "b/1.json": b'{"caption": "not this"}',
        "c/1.png": encoded(2),
        "c/1.json": b'{"caption": "half a \\ud800"}',
    }
    assert _pairs(open_source(_tar(tmp_path / "x.tar", members))) == [
        ("a/1", "from json", encoded(0)),
        ("b/1", "from text", encoded(1)),
        ("c/1", "half a ?", encoded(2)),
    ]


def test_what_has_no_other_half_is_a_pair_that_cannot_be_read(tmp_path: Path) -> None:
    members = {
        "a.png": encoded(0),
        "a.txt": b"whole",
        "b.png": encoded(1),
        "c.txt": b"no image",
        "d.png": encoded(2),
        "d.json": b"{broken",
        "e.json": b'{"caption": null}',
        "notes.md": b"nothing",
    }
    missing = "there is no image beside its caption"
    assert _pairs(open_source(_tar(tmp_path / "x.tar", members))) == [
        ("a", "whole", encoded(0)),
        ("b", "", encoded(1)),
        ("c", "no image", missing),
        ("d", "", encoded(2)),
        ("e", "", missing),
    ]


def test_members_may_come_in_any_order_and_have_dots(tmp_path: Path) -> None:
    members = {
        "a.1.png": encoded(0),
        "a.2.png": encoded(1),
        "b.image.png": encoded(2),
        "a.1.txt": b"first",
        "a.2.txt": b"second",
        "b.caption.txt": b"by webdataset's rule",
    }
    assert _pairs(open_source(_tar(tmp_path / "x.tar", members))) == [
        ("a.1", "first", encoded(0)),
        ("a.2", "second", encoded(1)),
        ("b.image", "by webdataset's rule", encoded(2)),
    ]


@pytest.mark.parametrize("where", ["between members", "in a header", "in a member"])
def test_a_tar_that_was_cut_off_is_refused(tmp_path: Path, where: str) -> None:
    whole = _tar(
        tmp_path / "x.tar", {f"{i}.{s}": b"a" * 600 for i in range(4) for s in ("png", "txt")}
    )
    with tarfile.open(whole) as archive:
        place = archive.getmembers()[4].offset
    end = {"between members": place, "in a header": place + 100, "in a member": place + 600}[where]
    whole.write_bytes(whole.read_bytes()[:end])
    with pytest.raises(TrainingDataInvalid, match=r"x\.tar: not a whole, uncompressed tar"):
        open_source(whole)


def test_garbage_in_a_tar_is_refused(tmp_path: Path) -> None:
    file = _tar(tmp_path / "x.tar", {f"{i}.{s}": b"a" for i in range(4) for s in ("png", "txt")})
    data = bytearray(file.read_bytes())
    data[4 * 1024 : 4 * 1024 + 512] = b"\x55" * 512
    file.write_bytes(data)
    with pytest.raises(TrainingDataInvalid, match="cut off or damaged at byte 4,096"):
        open_source(file)


def test_tars_with_other_captions_are_another_source(tmp_path: Path) -> None:
    found = set()
    for text in (b"one", b"two"):
        members = {"a.png": encoded(0), "a.txt": text}
        found.add(open_source(_tar(tmp_path / "x.tar", members)).fingerprint)
    assert len(found) == 2


def test_rows_of_a_saved_dataset_that_lack_something(tmp_path: Path) -> None:
    datasets: Any = pytest.importorskip("datasets")
    (tmp_path / "there.png").write_bytes(encoded(1))
    rows = {"image": [None, str(tmp_path / "there.png")], "captions": [["a"], []]}
    datasets.Dataset.from_dict(rows).save_to_disk(str(tmp_path / "d"))
    source = open_source(tmp_path / "d")
    with pytest.raises(OSError, match="has no image"):
        source.image(0)
    assert [source.caption(i) for i in range(2)] == ["a", ""]
    assert source.image(1) == encoded(1)


def test_several_captions_of_an_image_are_as_many_pairs(tmp_path: Path) -> None:
    datasets: Any = pytest.importorskip("datasets")
    rows = {
        "image": [encoded(i) for i in range(3)],
        "caption": [["a", "b"], None, ["c", "d", "e"]],
    }
    datasets.Dataset.from_dict(rows).save_to_disk(str(tmp_path / "d"))
    source = open_source(tmp_path / "d")
    assert [source.caption(i) for i in range(len(source))] == ["a", "b", "", "c", "d", "e"]
    assert [source.image(i) for i in range(6)] == [encoded(i) for i in (0, 0, 1, 2, 2, 2)]
    assert [source.key(i) for i in range(6)] == [f"d:{i}" for i in (0, 0, 1, 2, 2, 2)]


def test_other_columns_of_a_saved_dataset_are_not_looked_at(tmp_path: Path) -> None:
    """They may be images that are broken, and the saved dataset may be set to give them only."""
    datasets: Any = pytest.importorskip("datasets")
    rows = {"image": [encoded(0)], "caption": ["a"], "mask": [b"no image"], "ids": [[1, 2]]}
    features = datasets.Features(
        image=datasets.Image(),
        caption=datasets.Value("string"),
        mask=datasets.Image(),
        ids=datasets.List(datasets.Value("int64")),
    )
    saved = datasets.Dataset.from_dict(rows, features=features)
    saved.set_format("torch", columns=["ids"])
    saved.save_to_disk(str(tmp_path / "d"))
    source = open_source(tmp_path / "d")
    assert (len(source), source.caption(0), source.image(0)) == (1, "a", encoded(0))


def test_a_null_caption_is_empty(tmp_path: Path) -> None:
    datasets: Any = pytest.importorskip("datasets")
    rows = {"image": [encoded(0), encoded(1)], "caption": ["a", None]}
    datasets.Dataset.from_dict(rows).save_to_disk(str(tmp_path / "d"))
    assert open_source(tmp_path / "d").caption(1) == ""


def test_splits_and_damaged_datasets_are_named(tmp_path: Path) -> None:
    datasets: Any = pytest.importorskip("datasets")
    part = datasets.Dataset.from_dict({"image": [encoded(0)], "caption": ["a"]})
    datasets.DatasetDict({"train": part}).save_to_disk(str(tmp_path / "d"))
    with pytest.raises(TrainingDataInvalid, match="holds the splits train"):
        open_source(tmp_path / "d")
    (tmp_path / "d" / "train" / "state.json").write_text("{")
    with pytest.raises(TrainingDataInvalid, match="train: not readable"):
        open_source(tmp_path / "d" / "train")


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda d: d / "nothing", "no such file"),
        (lambda d: d, "expected a .tsv"),
        (lambda d: _file(d / "x.tsv", b"image\tlabel\na\tb\n"), "columns caption and image"),
        (lambda d: _file(d / "x.tsv", b""), "columns caption and image"),
        (lambda d: _file(d / "x.tsv", b"\xff\xfe\x00"), "x.tsv"),
        (lambda d: _file(d / "x.tar", b"\x1f\x8b" + b"0" * 2000), "uncompressed tar"),
        (lambda d: _folder(d / "x.tar"), "expected a .tsv"),
    ],
)
def test_what_is_no_source_is_named(tmp_path: Path, make: Any, told: str) -> None:
    with pytest.raises(TrainingDataInvalid, match=told):
        open_source(make(tmp_path))


def _folder(path: Path) -> Path:
    path.mkdir()
    return path


def _file(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("data", [b"", b"text", encoded(0)[:100], b"\x89PNG\r\n\x1a\n"])
def test_what_is_no_image_raises_what_callers_expect(data: bytes) -> None:
    with pytest.raises((OSError, ValueError)):
        open_image(data)


def test_damage_that_pillow_has_no_error_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """What its readers raise differs from version to version: struct.error, TypeError …"""

    def breaks(*_: object) -> None:
        raise struct.error("unpack requires a buffer of 4 bytes")

    monkeypatch.setattr(ImageOps, "exif_transpose", breaks)
    with pytest.raises(ValueError, match="unpack requires"):
        open_image(encoded(0))


def test_an_image_is_not_broken_for_want_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any) -> Any:
        raise MemoryError

    monkeypatch.setattr(Image.Image, "convert", fails)
    with pytest.raises(MemoryError):
        open_image(encoded(0))


def test_a_line_is_no_picture_to_crop() -> None:
    out = io.BytesIO()
    Image.new("RGB", (3000, 1)).save(out, "PNG")
    assert open_image(out.getvalue()).size == (3000, 1)
    with pytest.raises(ValueError, match="3000 x 1 pixels: too thin"):
        open_for_crop(out.getvalue())


def test_pictures_differ() -> None:
    assert len({picture(i).tobytes() for i in range(12)}) == 12
