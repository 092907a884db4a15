"""Features computed once: right, resumable, refused where they belong to something else."""

import errno
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fromage_weights.errors import TrainingDataInvalid
from fromage_weights.fingerprint import digest_of_rows
from fromage_weights.training.cache import FeatureCache
from fromage_weights.training.cache_builder import build_cache
from fromage_weights.training.sources import open_source
from fromage_weights.vision import VisionEncoder
from tests.weights.training.world import encoded, plain_features, write_tower, write_tsv


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> VisionEncoder:
    return VisionEncoder.load(str(write_tower(tmp_path_factory.mktemp("tower"))))


def test_features_are_the_towers(tmp_path: Path, encoder: VisionEncoder) -> None:
    source = open_source(write_tsv(tmp_path / "w", 25, broken=(3, 17)))
    seen: list[tuple[int, int]] = []
    build_cache(
        tmp_path / "c", source, encoder, dtype="float32", batch=4, shard_pairs=10,
        progress=lambda done, total: seen.append((done, total)),
    )  # fmt: skip
    cache = FeatureCache(tmp_path / "c")
    kept = [i for i in range(25) if i not in (3, 17)]
    assert cache.indices == kept
    assert cache.captions == [source.caption(i) for i in kept]
    found = cache.features(np.arange(len(cache))).numpy()
    np.testing.assert_allclose(found, plain_features(encoder, kept), atol=1e-5)
    order = np.array([20, 0, 11, 11])
    np.testing.assert_array_equal(cache.features(order).numpy(), found[order])
    assert [(b.index, b.key) for b in cache.broken] == [(3, "images/3.png"), (17, "images/17.png")]
    assert {b.reason for b in cache.broken} == {"no image that Pillow knows"}
    assert seen == [(i, 25) for i in (4, 8, 10, 10, 14, 18, 20, 20, 24, 25, 25)]


def test_half_precision_is_half_the_size(tmp_path: Path, encoder: VisionEncoder) -> None:
    source = open_source(write_tsv(tmp_path / "w", 8))
    build_cache(tmp_path / "c", source, encoder)
    found = FeatureCache(tmp_path / "c").features(np.arange(8)).numpy()
    np.testing.assert_allclose(found, plain_features(encoder, list(range(8))), atol=2e-3)
    assert (tmp_path / "c" / "shard-00000.npy").stat().st_size < 128 + 8 * 32 * 2 + 1


def test_a_build_goes_on_where_it_was_broken_off(
    tmp_path: Path, encoder: VisionEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = open_source(write_tsv(tmp_path / "w", 30))
    encode, calls = encoder.encode, 0

    def dies(pixels):  # type: ignore[no-untyped-def]
        nonlocal calls
        calls += 1
        if calls == 3:
            raise KeyboardInterrupt
        return encode(pixels)

    monkeypatch.setattr(encoder, "encode", dies)
    with pytest.raises(KeyboardInterrupt):
        build_cache(tmp_path / "c", source, encoder, batch=10, shard_pairs=10)
    with pytest.raises(TrainingDataInvalid, match="not complete"):
        FeatureCache(tmp_path / "c")
    calls = 3
    build_cache(tmp_path / "c", source, encoder, batch=10, shard_pairs=10)
    assert calls == 4, "two shards were there already"
    assert len(FeatureCache(tmp_path / "c")) == 30


def test_ranks_make_a_share_each(tmp_path: Path, encoder: VisionEncoder) -> None:
    source = open_source(write_tsv(tmp_path / "w", 30))
    for rank in range(2):
        build_cache(
            tmp_path / "c", source, encoder, shard_pairs=10, rank=rank, ranks=2, dtype="float32"
        )
    found = FeatureCache(tmp_path / "c").features(np.arange(30)).numpy()
    np.testing.assert_allclose(found, plain_features(encoder, list(range(30))), atol=1e-5)


def test_another_source_or_tower_is_refused(tmp_path: Path, encoder: VisionEncoder) -> None:
    build_cache(tmp_path / "c", open_source(write_tsv(tmp_path / "w", 8)), encoder)
    with pytest.raises(TrainingDataInvalid, match="pairs is 8, now 9"):
        build_cache(tmp_path / "c", open_source(write_tsv(tmp_path / "v", 9)), encoder)


def test_a_tower_of_another_form_is_refused(
    tmp_path: Path, encoder: VisionEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = open_source(write_tsv(tmp_path / "w", 8))
    build_cache(tmp_path / "c", source, encoder)
    monkeypatch.setattr(encoder, "form", digest_of_rows(["with another activation"]))
    with pytest.raises(TrainingDataInvalid, match=r"tower's form \(activations, preprocessing\)"):
        build_cache(tmp_path / "c", source, encoder)


def test_features_of_an_earlier_format_are_named(tmp_path: Path, encoder: VisionEncoder) -> None:
    source = open_source(write_tsv(tmp_path / "w", 8))
    build_cache(tmp_path / "c", source, encoder)
    file = tmp_path / "c" / "cache.json"
    told = json.loads(file.read_text())
    del told["tower"]
    file.write_text(json.dumps(told | {"format_version": 1}))
    with pytest.raises(TrainingDataInvalid, match=r"format 1, .* remove it"):
        build_cache(tmp_path / "c", source, encoder)


def test_a_caption_is_one_line(tmp_path: Path, encoder: VisionEncoder) -> None:
    """What stands around it would be learnt, a stop string's newline, too."""

    class Loose:
        fingerprint = digest_of_rows(["loose"])

        def __len__(self) -> int:
            return 2

        def key(self, index: int) -> str:
            return str(index)

        def caption(self, index: int) -> str:
            return (" a box\n  on red \n", "a disc")[index]

        def image(self, index: int) -> bytes:
            return encoded(index)

    build_cache(tmp_path / "c", Loose(), encoder)
    assert FeatureCache(tmp_path / "c").captions == ["a box on red", "a disc"]


def test_a_file_under_two_names_is_one_image(tmp_path: Path, encoder: VisionEncoder) -> None:
    table = write_tsv(tmp_path / "w", 3)
    (tmp_path / "w" / "images" / "2.png").write_bytes(encoded(0))
    build_cache(tmp_path / "c", open_source(table), encoder)
    assert FeatureCache(tmp_path / "c").images.tolist() == [0, 1, 0]


def test_pairs_without_a_caption_are_left_out(tmp_path: Path, encoder: VisionEncoder) -> None:
    table = write_tsv(tmp_path / "w", 3)
    table.write_text(table.read_text().replace("a box on green", "  "))
    build_cache(tmp_path / "c", open_source(table), encoder)
    cache = FeatureCache(tmp_path / "c")
    assert (cache.indices, cache.broken[0].reason) == ([0, 2], "its caption is empty")


@pytest.mark.parametrize("name", ["shard-00000.npy", "shard-00000.jsonl", "cache.json"])
def test_damaged_features_are_named_with_what_to_do(
    tmp_path: Path, encoder: VisionEncoder, name: str
) -> None:
    source = open_source(write_tsv(tmp_path / "w", 8))
    build_cache(tmp_path / "c", source, encoder)
    file = tmp_path / "c" / name
    file.write_bytes(file.read_bytes()[:40])
    with pytest.raises(TrainingDataInvalid, match="remove"):
        FeatureCache(tmp_path / "c")


def test_a_shard_that_is_made_again_forgets_what_was_broken(
    tmp_path: Path, encoder: VisionEncoder
) -> None:
    source = open_source(write_tsv(tmp_path / "w", 8, broken=(2,)))
    build_cache(tmp_path / "c", source, encoder)
    (tmp_path / "w" / "images" / "2.png").write_bytes(encoded(2))
    (tmp_path / "c" / "shard-00000.jsonl").unlink()
    build_cache(tmp_path / "c", source, encoder)
    cache = FeatureCache(tmp_path / "c")
    assert (len(cache), cache.broken) == (8, [])


def test_names_that_are_no_utf8(tmp_path: Path, encoder: VisionEncoder) -> None:
    table = write_tsv(tmp_path / "w", 2)
    folder = os.fsencode(tmp_path / "w" / "images")
    os.rename(folder + b"/0.png", folder + b"/0\xff.png")

    class Renamed:
        def __init__(self) -> None:
            self._source = open_source(table)
            self.fingerprint = digest_of_rows([self.key(0)])

        def __len__(self) -> int:
            return 2

        def key(self, index: int) -> str:
            return "images/0\udcff.png" if index == 0 else self._source.key(1)

        def caption(self, index: int) -> str:
            return self._source.caption(index)

        def image(self, index: int) -> bytes:
            return (table.parent / self.key(index)).read_bytes()

    build_cache(tmp_path / "c", Renamed(), encoder)
    assert len(FeatureCache(tmp_path / "c")) == 2


def test_the_wrong_folder_of_images_makes_no_features(
    tmp_path: Path, encoder: VisionEncoder
) -> None:
    table = write_tsv(tmp_path / "w", 5)
    (tmp_path / "empty").mkdir()
    with pytest.raises(TrainingDataInvalid, match=r"none of 5 images.*right folder"):
        build_cache(tmp_path / "c", open_source(table, tmp_path / "empty"), encoder)
    assert not list((tmp_path / "c").iterdir())
    with pytest.raises(TrainingDataInvalid, match="no such folder of images"):
        open_source(table, tmp_path / "none")


def test_images_are_tried_all_over_a_table(tmp_path: Path, encoder: VisionEncoder) -> None:
    source = open_source(write_tsv(tmp_path / "w", 70, broken=tuple(range(40))))
    build_cache(tmp_path / "c", source, encoder)
    assert len(FeatureCache(tmp_path / "c")) == 30


def test_a_failing_disk_breaks_no_image(
    tmp_path: Path, encoder: VisionEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = open_source(write_tsv(tmp_path / "w", 12))
    read = type(source).image

    def failing(self: Any, index: int) -> bytes:
        if index == 7:
            raise OSError(errno.EIO, "Input/output error")
        return read(self, index)

    monkeypatch.setattr(type(source), "image", failing)
    with pytest.raises(TrainingDataInvalid, match=r"7\.png.*Input/output error.*goes on"):
        build_cache(tmp_path / "c", source, encoder, shard_pairs=4)
    assert (tmp_path / "c" / "shard-00000.jsonl").exists()
    monkeypatch.undo()
    build_cache(tmp_path / "c", source, encoder)
    cache = FeatureCache(tmp_path / "c")
    assert (len(cache), cache.broken, cache.info.shard_pairs) == (12, [], 4)
