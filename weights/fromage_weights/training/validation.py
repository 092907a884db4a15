"""How a run is doing on pairs it doesn't learn from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

if TYPE_CHECKING:
    from fromage_weights.training.trainer import Trainer

RANKS = (1, 5, 10)
_BATCH = 64


def split(
    images: NDArray[np.int64], held_out: int, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows to learn from and rows to validate on; the same for the same seed.

    ``images`` (N,): which image each row shows, numbered from 0. All rows of an image are on the
    same side, so there may be a few more than ``held_out``."""
    rows = np.bincount(images) if len(images) else np.zeros(0, dtype=np.int64)
    order = np.random.default_rng([seed, 0xA11D]).permutation(len(rows))
    enough = int(np.searchsorted(np.cumsum(rows[order]), held_out)) + 1 if held_out else 0
    judged = np.isin(images, order[:enough])
    return np.flatnonzero(~judged), np.flatnonzero(judged)


@dataclass(frozen=True)
class Validation:
    """`recall`: share of captions whose image is among the first 1, 5, 10 of all images that were
    held out. `ranked` (N, 10): rows into the validation set, one of each image, best first."""

    caption: float
    retrieval: float
    recall: dict[int, float]
    ranked: Tensor

    def __str__(self) -> str:
        recalls = "  ".join(f"R@{k} {100 * value:.1f}" for k, value in self.recall.items())
        return f"caption loss {self.caption:.3f}  retrieval loss {self.retrieval:.3f}  {recalls}"


@torch.no_grad()
def validate(trainer: Trainer, rows: NDArray[np.int64]) -> Validation:
    """Over all of `rows`, in this process."""
    texts, images, caption, retrieval = [], [], 0.0, 0.0
    objective = trainer.objective.alone()
    for start in range(0, len(rows), _BATCH):
        batch = trainer.examples(rows[start : start + _BATCH])
        losses = objective.losses(batch, concatenate=False)
        caption += losses.caption * len(batch) / len(rows)
        retrieval += losses.retrieval * len(batch) / len(rows)
        text, image = objective.embeddings(batch)
        texts.append(text)
        images.append(image)
    _, firsts, own = np.unique(trainer.images(rows), return_index=True, return_inverse=True)
    scores = torch.cat(texts) @ torch.cat(images)[firsts].T
    right = scores.gather(1, torch.from_numpy(own)[:, None])
    # Images that score as high count as better: equal features must not look like success.
    place = (scores >= right).sum(1) - 1
    recall = {k: float((place < k).float().mean()) for k in RANKS}
    best = scores.topk(min(max(RANKS), len(firsts)), dim=1).indices
    return Validation(caption, retrieval, recall, torch.from_numpy(firsts)[best])
