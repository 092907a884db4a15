"""Image features: remembered by content, encoded together."""

import hashlib
import random
import sys
import threading
import time
from contextlib import suppress
from typing import Any, cast

import pytest
import torch
from PIL import Image
from torch import Tensor

from fromage_server import features
from fromage_server.errors import ApiError
from fromage_server.features import FeatureEncoder
from fromage_server.media import SourceImage
from fromage_server.workers import completed
from fromage_weights.grounded import ImageSegment
from tests.server.pictures import encoded


class Tower:
    """Instead of a real one, to hold it up and to see its batches; a feature is the mean colour."""

    dim = 3
    device = torch.device("cpu")

    def __init__(self) -> None:
        self.batches: list[int] = []
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Event()
        self.error: Exception | None = None

    def preprocess(self, image: Image.Image, mode: str) -> Tensor:
        return torch.tensor(image.resize((1, 1)).getpixel((0, 0)), dtype=torch.float32)

    def encode(self, pixels: Tensor) -> Tensor:
        self.entered.set()
        assert self.gate.wait(30)
        self.batches.append(len(pixels))
        if self.error:
            raise self.error
        return pixels


def picture(shade: int) -> SourceImage:
    data = encoded(Image.new("RGB", (4, 4), (shade, 0, 0)))
    return SourceImage(data, hashlib.sha256(data).hexdigest(), f"image {shade}")


def encoder_of(tower: Any) -> FeatureEncoder:
    return FeatureEncoder(tower, "squash")


def encoded_by(encoder: FeatureEncoder, *images: SourceImage) -> list[ImageSegment]:
    return completed(encoder.encode(images))


def shades(encoder: FeatureEncoder, *wanted: int) -> list[int]:
    return [int(s.features[0]) for s in encoded_by(encoder, *map(picture, wanted))]


def test_the_same_image_is_encoded_once() -> None:
    tower = Tower()
    encoder = encoder_of(tower)
    assert shades(encoder, 1, 2, 1) == [1, 2, 1]
    assert shades(encoder, 2, 3) == [2, 3]
    assert tower.batches == [2, 1]
    first, second = encoded_by(encoder, picture(1), picture(2))
    assert first.key != second.key


def test_what_gathers_while_the_tower_runs_is_encoded_together() -> None:
    tower = Tower()
    encoder = encoder_of(tower)
    tower.gate.clear()
    found: dict[int, list[int]] = {}
    threads = [
        threading.Thread(target=lambda i=i: found.update({i: shades(encoder, i, 9)}))
        for i in range(5)
    ]
    threads[0].start()
    assert tower.entered.wait(30)
    for thread in threads[1:]:
        thread.start()
    while len(encoder._coming) < 6:  # the first one's two, one of which all share, and four more
        time.sleep(0.001)
    tower.gate.set()
    for thread in threads:
        thread.join(30)
    assert found == {i: [i, 9] for i in range(5)}
    assert tower.batches == [2, 4]


def test_a_failing_tower_fails_those_who_wait_and_nobody_else() -> None:
    tower = Tower()
    encoder = encoder_of(tower)
    tower.error = RuntimeError("no memory")
    with pytest.raises(RuntimeError, match="no memory"):
        shades(encoder, 1)
    tower.error = None
    assert shades(encoder, 1) == [1]


def test_nobody_fails_for_others() -> None:
    """A pass that fails is taken apart: it may be one image, or too many of them."""

    class Picky(Tower):
        def encode(self, pixels: Tensor) -> Tensor:
            found = super().encode(pixels)
            if len(pixels) > 2 or 3.0 in pixels[:, 0].tolist():
                raise RuntimeError("no memory")
            return found

    tower = Picky()
    encoder = encoder_of(tower)
    with pytest.raises(RuntimeError, match="no memory"):
        shades(encoder, *range(6))
    assert shades(encoder, 0, 1, 2, 4, 5) == [0, 1, 2, 4, 5]
    encoder.close()
    assert max(tower.batches) == 6


def test_one_at_a_time_where_that_is_asked_for() -> None:
    tower = Tower()
    encoder = FeatureEncoder(cast(Any, tower), "squash", batch=1)
    assert shades(encoder, 1, 2, 3) == [1, 2, 3]
    assert tower.batches == [1, 1, 1]


def test_many_wait_with_little_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "_BACKLOG", 2)
    tower = Tower()
    encoder = encoder_of(tower)
    tower.gate.clear()
    threads = [threading.Thread(target=shades, args=(encoder, i, i + 100)) for i in range(4)]
    for thread in threads:
        thread.start()
    assert tower.entered.wait(30)
    time.sleep(0.05)
    assert len(encoder._coming) == 2
    tower.gate.set()
    for thread in threads:
        thread.join(30)
    assert sum(tower.batches) == 8


def test_who_waits_for_room_takes_no_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "_BACKLOG", 2)
    tower = Tower()
    encoder = encoder_of(tower)
    tower.gate.clear()
    first = encoder.encode([picture(1), picture(2)])
    feature = next(first)
    waiting = [encoder.encode([picture(shade)]) for shade in (3, 4)]
    rooms = [next(work) for work in waiting]
    assert not any(room.done() for room in rooms)
    assert completed(encoder.encode([])) == [], "nobody waits who brings no image"
    tower.gate.set()
    assert feature.result(30) is not None
    for work, room, shade in zip(waiting, rooms, (3, 4), strict=True):
        room.result(30)
        (segment,) = completed(work)
        assert int(segment.features[0]) == shade


def test_who_waits_for_room_hears_of_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "_BACKLOG", 1)
    monkeypatch.setattr(features, "_STOP_S", 0.01)
    tower = Tower()
    encoder = encoder_of(tower)
    tower.gate.clear()
    next(encoder.encode([picture(1)]))
    waiting = encoder.encode([picture(2)])
    room = next(waiting)
    encoder.close()
    assert room.done()
    with pytest.raises(RuntimeError, match="stopping"):
        completed(waiting)
    tower.gate.set()


def test_a_refused_image_leaves_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "_BACKLOG", 1)
    encoder = encoder_of(Tower())
    for _ in range(2):
        with pytest.raises(ApiError):
            encoded_by(encoder, SourceImage(b"no picture", "00", "image"))
    assert shades(encoder, 1) == [1]


def test_what_is_no_picture_is_refused_by_name() -> None:
    tower = Tower()
    encoder = encoder_of(tower)
    with pytest.raises(ApiError) as caught:
        encoded_by(encoder, picture(1), SourceImage(b"no picture", "00", "messages.0.content.1"))
    assert caught.value.param == "messages.0.content.1"
    assert not encoder._coming, "nothing of a refused request is left"
    assert shades(encoder, 2) == [2]
    assert tower.batches == [1]


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "REMEMBERED_BYTES", 10 * 4 * Tower.dim)
    encoder = encoder_of(Tower())
    shades(encoder, 0)
    (first,) = encoded_by(encoder, picture(0))  # out of the memory
    kept = first.features.clone()
    assert shades(encoder, *range(1, 50)) == list(range(1, 50))
    assert len(encoder._cache) == 10
    assert shades(encoder, *range(30, 50)) == list(range(30, 50))
    assert torch.equal(first.features, kept), "its place is another's now"
    encoder.close()
    assert not encoder._coming


def test_many_ask_for_the_same_and_nobody_waits_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """Images leave the memory all the time, and are asked for while they are on their way."""
    monkeypatch.setattr(features, "REMEMBERED_BYTES", 3 * 4 * Tower.dim)
    encoder = encoder_of(Tower())
    wrong: list[list[int]] = []

    def ask(seed: int) -> None:
        chance = random.Random(seed)
        for _ in range(100):
            wanted = [chance.randrange(8) for _ in range(chance.randrange(1, 4))]
            if shades(encoder, *wanted) != wanted:
                wrong.append(wanted)

    threads = [threading.Thread(target=ask, args=(seed,), daemon=True) for seed in range(8)]
    for thread in threads:
        thread.start()
    end = time.monotonic() + 60
    for thread in threads:
        thread.join(max(0, end - time.monotonic()))
    assert not any(thread.is_alive() for thread in threads)
    assert not wrong
    encoder.close()  # a result is there a moment before its image is taken out
    assert not encoder._coming


def test_who_found_an_image_on_its_way_hears_of_its_failure(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """And does not have it run again under the same name: told twice, the tower's thread would
    end, and those behind it would wait for ever."""

    class Slow(Tower):
        def preprocess(self, image: Image.Image, mode: str) -> Tensor:
            found = super().preprocess(image, mode)
            if found[0] == 2:
                decoding.set()
                assert failed.wait(30)
            return found

    decoding, failed = threading.Event(), threading.Event()
    tower = Slow()
    encoder = encoder_of(tower)
    take_out = encoder._take_out

    def take_out_and_wait(batch: Any) -> None:
        """Nobody has been told yet: just then another one comes."""
        take_out(batch)
        if not failed.is_set():
            tower.error = None
            failed.set()
            end = time.monotonic() + 30
            while not encoder._coming and time.monotonic() < end:
                time.sleep(0.001)

    monkeypatch.setattr(encoder, "_take_out", take_out_and_wait)
    tower.gate.clear()
    tower.error = RuntimeError("no memory")
    first = next(encoder.encode([picture(1)]))
    heard: list[str] = []

    def ask() -> None:
        try:
            shades(encoder, 1, 2)
        except RuntimeError as error:
            heard.append(str(error))

    other = threading.Thread(target=ask, daemon=True)
    other.start()
    assert decoding.wait(30)  # it has found the first one's image
    tower.gate.set()
    with pytest.raises(RuntimeError, match="no memory"):
        first.result(30)
    other.join(30)
    assert heard == ["no memory"]
    work = encoder.encode([picture(1), picture(2)])
    with suppress(StopIteration):
        while True:
            next(work).result(30)
    encoder.close()
    assert not encoder._coming


def test_nobody_waits_for_ever_beside_a_tower_that_fails() -> None:
    """Whoever found an image on its way hears of its failure, and does not have it run again
    under the same name: told twice, the tower's thread would end."""

    class Failing(Tower):
        def encode(self, pixels: Tensor) -> Tensor:
            if luck.random() < 0.5:
                raise RuntimeError("no memory")
            return pixels

    luck = random.Random(0)
    encoder = encoder_of(Failing())
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    wrong: list[list[int]] = []

    def ask(seed: int) -> None:
        chance = random.Random(seed)
        for _ in range(100):
            wanted = [chance.randrange(8) for _ in range(chance.randrange(1, 4))]
            with suppress(RuntimeError):
                if shades(encoder, *wanted) != wanted:
                    wrong.append(wanted)

    threads = [threading.Thread(target=ask, args=(seed,), daemon=True) for seed in range(8)]
    try:
        for thread in threads:
            thread.start()
        end = time.monotonic() + 60
        for thread in threads:
            thread.join(max(0, end - time.monotonic()))
    finally:
        sys.setswitchinterval(before)
    assert not any(thread.is_alive() for thread in threads)
    assert not wrong
    encoder.close()
    assert not encoder._coming
