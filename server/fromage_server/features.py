"""Pooled vision features of a request's images, remembered by content."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from fromage_index.decode import decode_image
from fromage_index.errors import UnreadableImage
from fromage_server.errors import ApiError
from fromage_server.media import SourceImage

if TYPE_CHECKING:
    from torch import Tensor

    from fromage_weights.grounded import ImageSegment
    from fromage_weights.vision import PreprocessMode, VisionEncoder

_BATCH: Final = 16
_REMEMBERED: Final = 4096


class FeatureEncoder:
    """Decodes and encodes what the cache doesn't hold, several images a pass. Heavy: call it in a
    worker thread; several may."""

    def __init__(self, vision: VisionEncoder, mode: PreprocessMode) -> None:
        self._vision = vision
        self._mode: PreprocessMode = mode
        self._lock = threading.Lock()
        self._cache: OrderedDict[str, Tensor] = OrderedDict()

    def encode(self, images: Sequence[SourceImage]) -> list[ImageSegment]:
        """One (Dv,) float32 feature per image, keyed by the image's content. Raises ApiError for
        what is no picture."""
        from fromage_weights.grounded import ImageSegment

        found = {
            image.digest: feature
            for image in images
            if (feature := self._recall(image)) is not None
        }
        missing = list(
            {image.digest: image for image in images if image.digest not in found}.values()
        )
        for start in range(0, len(missing), _BATCH):
            batch = missing[start : start + _BATCH]
            found.update(zip((image.digest for image in batch), self._run(batch), strict=True))
        return [ImageSegment(found[i.digest], key=bytes.fromhex(i.digest)) for i in images]

    def _run(self, batch: Sequence[SourceImage]) -> list[Tensor]:
        import torch

        features = self._vision.encode(torch.stack([self._pixels(image) for image in batch]))
        # Copies: a view would keep its whole batch alive.
        rows = [row.clone() for row in features.unbind()]
        with self._lock:
            self._cache.update(zip((image.digest for image in batch), rows, strict=True))
            while len(self._cache) > _REMEMBERED:
                self._cache.popitem(last=False)
        return rows

    def _recall(self, image: SourceImage) -> Tensor | None:
        with self._lock:
            if image.digest in self._cache:
                self._cache.move_to_end(image.digest)
            return self._cache.get(image.digest)

    def _pixels(self, image: SourceImage) -> Tensor:
        try:
            return self._vision.preprocess(decode_image(image.data), self._mode)
        except UnreadableImage as error:
            raise ApiError("unreadable_image", str(error), param=image.param) from None
