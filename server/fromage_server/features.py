"""Pooled vision features of the requests' images, remembered by content.

Requests decode their images in the workers' threads; the tower has its own, and takes what has
gathered in one pass, whoever it is from.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from fromage_index.decode import decode_image
from fromage_index.errors import UnreadableImage
from fromage_server.batches import Batches
from fromage_server.errors import ApiError
from fromage_server.media import SourceImage
from fromage_server.threads import compute_alone
from fromage_server.workers import Preparing

if TYPE_CHECKING:
    from torch import Tensor

    from fromage_weights.grounded import ImageSegment
    from fromage_weights.vision import PreprocessMode, VisionEncoder

BATCH: Final = 16
_BACKLOG: Final = 8 * BATCH
REMEMBERED_BYTES: Final = 16 << 20
_STOP_S: Final = 5.0


@dataclass(frozen=True, eq=False)
class _Coming:
    """An image on its way through the tower."""

    digest: str
    pixels: Tensor
    feature: Future[Tensor] = field(default_factory=Future)


class _Remembered:
    """Features by digest, the latest asked for; in one piece of memory: thousands of small ones
    that live long, between large ones that don't, would leave the heap full of holes."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._places: OrderedDict[str, int] = OrderedDict()
        self._rows: Tensor | None = None

    def __len__(self) -> int:
        return len(self._places)

    def get(self, digest: str) -> Tensor | None:
        """A copy: its place may be another's soon."""
        if self._rows is None or digest not in self._places:
            return None
        self._places.move_to_end(digest)
        return self._rows[self._places[digest]].clone()

    def put(self, digest: str, feature: Tensor) -> None:
        if self._rows is None:
            self._rows = feature.new_empty(self._capacity, len(feature))
        place = self._places.pop(digest, None)
        if place is None and len(self._places) == self._capacity:
            _, place = self._places.popitem(last=False)
        self._places[digest] = len(self._places) if place is None else place
        self._rows[self._places[digest]] = feature


class FeatureEncoder:
    """Encodes what the cache doesn't hold. ``encode`` is heavy: call it in worker threads."""

    def __init__(self, vision: VisionEncoder, mode: PreprocessMode, *, batch: int = BATCH) -> None:
        """``batch``: most images of one pass. What a pass of one computes depends on no other."""
        import torch

        self._vision = vision
        self._mode: PreprocessMode = mode
        self._batch = batch
        # Of its own on a GPU: the language model's steps need not wait for pictures.
        on_gpu = vision.device.type == "cuda"
        make_stream: Any = torch.cuda.Stream
        self._stream = make_stream(vision.device) if on_gpu else None
        self._lock = threading.Lock()  # for the four below
        self._coming: dict[str, _Coming] = {}  # by digest, not yet encoded
        self._decoding = 0  # images whose pixels are being made
        self._room_made: Future[None] | None = None  # for those who wait for fewer of them
        self._cache = _Remembered(max(1, REMEMBERED_BYTES // (4 * vision.dim)))
        self._tower = Batches[_Coming](
            "fromage-vision", self._run, lambda batch: len(batch) < self._batch, compute_alone
        )

    def warm_up(self) -> None:
        """Run the tower for the first time, alone and with a whole batch."""
        import torch
        from PIL import Image

        pixels = self._vision.preprocess(Image.new("RGB", (64, 64)), self._mode)
        for count in (1, self._batch) if self._vision.device.type == "cuda" else (1,):
            with torch.cuda.stream(self._stream):
                self._vision.encode(torch.stack([pixels] * count))

    def encode(self, images: Sequence[SourceImage]) -> Preparing[list[ImageSegment]]:
        """One (Dv,) float32 feature per image, keyed by the image's content. Raises ApiError for
        what is no picture; none of its request's images is encoded then."""
        from fromage_weights.grounded import ImageSegment

        unique = {image.digest: image for image in images}
        found = {
            digest: feature for digest in unique if (feature := self._recall(digest)) is not None
        }
        missing = [image for digest, image in unique.items() if digest not in found]
        while missing and (room := self._room(len(missing))) is not None:
            yield room
        for digest, image in self._begun(missing).items():
            yield image.feature
            found[digest] = image.feature.result()
        return [ImageSegment(found[i.digest], key=bytes.fromhex(i.digest)) for i in images]

    def close(self) -> None:
        """What has been asked for is done first, unless it takes very long."""
        self._tower.close(_STOP_S)
        with self._lock:
            self._give_room()

    def _room(self, count: int) -> Future[None] | None:
        """None: so many may be decoded. Else what to wait for: pixels are large, and those of very
        many images are here."""
        with self._lock:
            if self._is_room():
                self._decoding += count
                return None
            self._room_made = self._room_made or Future()
            return self._room_made

    def _is_room(self) -> bool:
        return self._decoding + len(self._coming) < _BACKLOG or self._tower.closed

    def _give_room(self) -> None:
        if self._room_made is not None and self._is_room():
            self._room_made.set_result(None)
            self._room_made = None

    def _begun(self, images: Sequence[SourceImage]) -> dict[str, _Coming]:
        """Each of them by its digest, on its way; for as many as there was ``_room`` for."""
        try:
            with self._lock:
                coming = {
                    image.digest: self._coming[image.digest]
                    for image in images
                    if image.digest in self._coming
                }
            decoded = [
                _Coming(image.digest, self._pixels(image))
                for image in images
                if image.digest not in coming
            ]
            return coming | self._enqueued(decoded)
        finally:
            with self._lock:
                self._decoding -= len(images)
                self._give_room()

    def _enqueued(self, images: Sequence[_Coming]) -> dict[str, _Coming]:
        """Each of ``images``, or the same one where that came before it."""
        with self._lock:
            fresh = []
            for image in images:
                if (row := self._cache.get(image.digest)) is not None:
                    image.feature.set_result(row)
                elif image.digest not in self._coming:
                    fresh.append(image)
            if fresh and not self._tower.put(*fresh):
                raise RuntimeError("the server is stopping")
            self._coming |= {image.digest: image for image in fresh}
            return {image.digest: self._coming.get(image.digest, image) for image in images}

    def _run(self, batch: Sequence[_Coming]) -> None:
        """One pass; where it fails, each half by itself, so that nobody fails for others."""
        try:
            rows = self._features(batch)
            self._remember(batch, rows)
        except Exception as error:
            if len(batch) > 1:
                self._run(batch[: len(batch) // 2])
                self._run(batch[len(batch) // 2 :])
            else:
                # Taken out before anybody hears of it: who asks again is not given this failure.
                self._take_out(batch)
                batch[0].feature.set_exception(error)
            return
        self._take_out(batch)
        for image, row in zip(batch, rows, strict=True):
            image.feature.set_result(row)

    def _features(self, batch: Sequence[_Coming]) -> list[Tensor]:
        import torch

        with torch.cuda.stream(self._stream):
            features = self._vision.encode(torch.stack([image.pixels for image in batch]))
            # Copies: a view would keep its whole batch alive.
            return [row.clone() for row in features.unbind()]

    def _remember(self, batch: Sequence[_Coming], rows: Sequence[Tensor]) -> None:
        with self._lock:
            for image, row in zip(batch, rows, strict=True):
                self._cache.put(image.digest, row)

    def _take_out(self, batch: Sequence[_Coming]) -> None:
        with self._lock:
            for image in batch:
                del self._coming[image.digest]
            self._give_room()

    def _recall(self, digest: str) -> Tensor | None:
        with self._lock:
            return self._cache.get(digest)

    def _pixels(self, image: SourceImage) -> Tensor:
        try:
            return self._vision.preprocess(decode_image(image.data), self._mode)
        except UnreadableImage as error:
            raise ApiError("unreadable_image", str(error), param=image.param) from None
