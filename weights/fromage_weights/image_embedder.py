"""Pictures to points of the shared space: what an image index is made of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fromage_weights.mappers import Mappers

if TYPE_CHECKING:
    from PIL.Image import Image

    from fromage_weights.vision import VisionEncoder


class ImageEmbedder:
    """The vision encoder and the retrieval mapping; no language model.

    Index images are centre-cropped, never squashed, in both modes of the service.
    """

    def __init__(self, vision: VisionEncoder, mappers: Mappers) -> None:
        self._vision = vision
        self._mappers = mappers

    def prepare(self, image: Image) -> Tensor:
        """RGB image -> (3, S, S); may run on any thread."""
        return self._vision.preprocess(image, "crop")

    @torch.inference_mode()
    def embed(self, prepared: Sequence[Tensor]) -> NDArray[np.float32]:
        """B tensors of ``prepare`` -> (B, shared_dim), unit norm."""
        features = self._vision.encode(torch.stack(list(prepared)))
        found: NDArray[np.float32] = self._mappers.image_embeddings(features).cpu().numpy()
        return found
