"""Pairs as people have them."""

from pathlib import Path
from typing import Any

import pytest

from fromage_weights.errors import TrainingDataInvalid
from fromage_weights.training.sources import CaptionSource, Limited, open_image, open_source
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


def test_the_json_caption_serves_where_there_is_no_text(tmp_path: Path) -> None:
    import io
    import tarfile

    file = tmp_path / "x.tar"
    members = {
        "a/1.jpg": encoded(0),
        "a/1.json": b'{"caption": "from json"}',
        "b/1.png": encoded(1),
        "b/1.txt": b"from text\n",
        "b/1.json": b'{"caption": "not this"}',
        "c/1.png": encoded(2),
        "d/1.txt": b"no image",
        "e/1.png": encoded(3),
        "e/1.json": b"{broken",
    }
    with tarfile.open(file, "w") as archive:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    source = open_source(file)
    assert [(source.key(i), source.caption(i)) for i in range(len(source))] == [
        ("x.tar:a/1", "from json"),
        ("x.tar:b/1", "from text"),
    ]


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda d: d / "nothing", "no such file"),
        (lambda d: d, "expected a .tsv"),
        (lambda d: _file(d / "x.tsv", b"image\tlabel\na\tb\n"), "columns caption and image"),
        (lambda d: _file(d / "x.tsv", b""), "columns caption and image"),
        (lambda d: _file(d / "x.tsv", b"\xff\xfe\x00"), "x.tsv"),
        (lambda d: _file(d / "x.tar", b"\x1f\x8b" + b"0" * 2000), "uncompressed tar"),
    ],
)
def test_what_is_no_source_is_named(tmp_path: Path, make: Any, told: str) -> None:
    with pytest.raises(TrainingDataInvalid, match=told):
        open_source(make(tmp_path))


def _file(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("data", [b"", b"text", encoded(0)[:100], b"\x89PNG\r\n\x1a\n"])
def test_what_is_no_image_raises_what_callers_expect(data: bytes) -> None:
    with pytest.raises((OSError, ValueError)):
        open_image(data)


def test_pictures_differ() -> None:
    assert len({picture(i).tobytes() for i in range(12)}) == 12
