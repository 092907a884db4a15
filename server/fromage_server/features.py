"""Pooled vision features of the requests' images, remembered by content.

Requests decode their images each in its own thread; the tower then takes what has gathered in one
pass, whoever it is from.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from fromage_index.decode import decode_image
from fromage_index.errors import UnreadableImage
from fromage_server.errors import ApiError
from fromage_server.media import SourceImage

if TYPE_CHECKING:
    from torch import Tensor

    from fromage_weights.grounded import ImageSegment
    from fromage_weights.vision import PreprocessMode, VisionEncoder

_BATCH: Final = 16
REMEMBERED_BYTES: Final = 16 << 20


@dataclass(eq=False)
class _Pending:
    """An image on its way through the tower."""

    pixels: Tensor
    feature: Tensor | None = None
    error: Exception | None = None

    @property
    def is_done(self) -> bool:
        return self.feature is not None or self.error is not None

    def result(self) -> Tensor:
        if self.error is not None:
            raise self.error
        assert self.feature is not None
        return self.feature


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
    """Encodes what the cache doesn't hold. Heavy: call it in a worker thread; several may."""

    def __init__(self, vision: VisionEncoder, mode: PreprocessMode) -> None:
        import torch

        self._vision = vision
        self._mode: PreprocessMode = mode
        # Of its own on a GPU: the language model's steps need not wait for pictures.
        on_gpu = vision.device.type == "cuda"
        make_stream: Any = torch.cuda.Stream
        self._stream = make_stream(vision.device) if on_gpu else None
        self._tower = threading.Lock()  # held by the thread whose turn it is to run the tower
        self._lock = threading.Lock()  # guards the two below
        self._pending: OrderedDict[str, _Pending] = OrderedDict()  # by digest, not yet encoded
        self._cache = _Remembered(max(1, REMEMBERED_BYTES // (4 * vision.dim)))

    def warm_up(self) -> None:
        """Run the tower for the first time, alone and with a whole batch."""
        import torch
        from PIL import Image

        pixels = self._vision.preprocess(Image.new("RGB", (64, 64)), self._mode)
        for count in (1, _BATCH) if self._vision.device.type == "cuda" else (1,):
            with torch.cuda.stream(self._stream):
                self._vision.encode(torch.stack([pixels] * count))

    def encode(self, images: Sequence[SourceImage]) -> list[ImageSegment]:
        """One (Dv,) float32 feature per image, keyed by the image's content. Raises ApiError for
        what is no picture."""
        from fromage_weights.grounded import ImageSegment

        unique = {image.digest: image for image in images}
        found = {
            digest: feature for digest in unique if (feature := self._recall(digest)) is not None
        }
        missing = [image for digest, image in unique.items() if digest not in found]
        waiting = {image.digest: self._enqueue(image) for image in missing}
        self._work_off(list(waiting.values()))
        found |= {digest: pending.result() for digest, pending in waiting.items()}
        return [ImageSegment(found[i.digest], key=bytes.fromhex(i.digest)) for i in images]

    def _enqueue(self, image: SourceImage) -> _Pending:
        pixels = self._pixels(image)
        with self._lock:
            return self._pending.setdefault(image.digest, _Pending(pixels))

    def _work_off(self, own: Sequence[_Pending]) -> None:
        """Run the tower until ``own`` are done, others' images along with them."""
        while not all(pending.is_done for pending in own):
            with self._tower:
                with self._lock:
                    count = min(_BATCH, len(self._pending))
                    batch = dict(self._pending.popitem(last=False) for _ in range(count))
                if batch:
                    self._run(batch)

    def _run(self, batch: dict[str, _Pending]) -> None:
        import torch

        try:
            with torch.cuda.stream(self._stream):
                features = self._vision.encode(torch.stack([p.pixels for p in batch.values()]))
        except Exception as error:
            for pending in batch.values():
                pending.error = error
            return
        # Copies: a view would keep its whole batch alive.
        rows = [row.clone() for row in features.unbind()]
        for pending, row in zip(batch.values(), rows, strict=True):
            pending.feature = row
        with self._lock:
            for digest, row in zip(batch, rows, strict=True):
                self._cache.put(digest, row)

    def _recall(self, digest: str) -> Tensor | None:
        with self._lock:
            return self._cache.get(digest)

    def _pixels(self, image: SourceImage) -> Tensor:
        try:
            return self._vision.preprocess(decode_image(image.data), self._mode)
        except UnreadableImage as error:
            raise ApiError("unreadable_image", str(error), param=image.param) from None
