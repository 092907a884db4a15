"""TensorBoard, where it is wanted: scalars of every step, retrieved images at validations."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fromage_weights.errors import TrainingInvalid
from fromage_weights.images import open_image
from fromage_weights.training.cache import FeatureCache
from fromage_weights.training.sources import CaptionSource
from fromage_weights.training.trainer import Step
from fromage_weights.training.validation import Validation

_PANELS, _SHOWN, _SIDE = 4, 5, 160


class Board:
    """Does nothing unless it is on. ``step``: that of the checkpoint the run goes on from; what an
    earlier one wrote after it is taken back."""

    def __init__(self, directory: Path, on: bool, *, step: int = 0) -> None:
        self._writer: Any = None
        if on:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError as error:
                raise TrainingInvalid(
                    "--tensorboard takes the tensorboard package; install fromage-server[train]"
                ) from error
            self._writer = SummaryWriter(str(directory), purge_step=step + 1)

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()

    def step(self, made: Step) -> None:
        if self._writer is not None:
            for name, value in made.line().items():
                if name != "step":
                    self._writer.add_scalar(f"train/{name}", value, made.number)

    def validation(self, step: int, found: Validation) -> None:
        if self._writer is not None:
            self._writer.add_scalar("validation/caption", found.caption, step)
            self._writer.add_scalar("validation/retrieval", found.retrieval, step)
            for k, value in found.recall.items():
                self._writer.add_scalar(f"validation/R@{k}", value, step)

    def panels(
        self,
        step: int,
        found: Validation,
        cache: FeatureCache,
        source: CaptionSource,
        rows: NDArray[np.int64],
    ) -> None:
        """For a few captions: the caption's own image, then the best of those held out."""
        if self._writer is None:
            return
        for i in range(min(_PANELS, len(rows))):
            shown = [i, *found.ranked[i, :_SHOWN].tolist()]
            images = [_thumbnail(source, cache.indices[int(rows[j])]) for j in shown]
            self._writer.add_image(
                f"retrieval/{i}", np.concatenate(images, axis=1), step, dataformats="HWC"
            )
            self._writer.add_text(f"retrieval/{i}", cache.captions[int(rows[i])], step)


def _thumbnail(source: CaptionSource, index: int) -> NDArray[np.uint8]:
    """(160, 160 + a gap, 3); grey for an image that is no longer to be had."""
    pixels = np.full((_SIDE, _SIDE + 4, 3), 255, np.uint8)
    try:
        image = open_image(source.image(index)).resize((_SIDE, _SIDE))
    except (OSError, ValueError):
        pixels[:, :_SIDE] = 128
    else:
        pixels[:, :_SIDE] = np.asarray(image)
    return pixels
