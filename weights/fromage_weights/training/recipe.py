"""Everything a training run depends on beside its data and its frozen pair."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from fromage_weights.errors import TrainingInvalid

Schedule = Literal["constant", "cosine"]


@dataclass(frozen=True)
class TrainingRecipe:
    """The defaults are the paper's (section 4.1) and its code's.

    ``batch`` is that of all ranks together. ``concatenate``: how often captioning reads two
    examples in a row. ``max_length``: most tokens of a caption, begin token and [RET] included.
    ``max_scale``: upper limit of the contrastive temperature's inverse, None for none (CLIP's is
    100). ``dialogue``: how often a pair is dressed as a turn of a chat.
    """

    steps: int = 20_000
    batch: int = 180
    learning_rate: float = 3e-4
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = 0.0
    clip: float = 1.0
    warmup: int = 100
    schedule: Schedule = "constant"
    concatenate: float = 0.5
    max_length: int = 24
    caption_weight: float = 1.0
    retrieval_weight: float = 1.0
    max_scale: float | None = None
    dialogue: float = 0.0
    seed: int = 0

    def rate(self, step: int) -> float:
        """The learning rate of step 0, 1, …: linear warm-up from zero, then the schedule."""
        if step < self.warmup:
            return self.learning_rate * step / self.warmup
        if self.schedule == "constant":
            return self.learning_rate
        done = (step - self.warmup) / max(1, self.steps - self.warmup)
        return self.learning_rate * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


def check_batch(batch: int, pairs: int, ranks: int, held_out: int = 0) -> None:
    """Raises TrainingInvalid for a batch that so many pairs, less those ``held_out``, don't fill,
    or that so many ranks cannot share in pairs of examples."""
    unit, pairs = 2 * ranks, pairs - held_out
    there_are = f"there are {pairs}"
    if held_out:
        there_are += f" beside the {held_out} held out (--validation)"
    if pairs < unit:
        raise TrainingInvalid(
            f"training takes {unit} readable pairs at least (two on each rank); {there_are}"
        )
    if batch > pairs:
        raise TrainingInvalid(
            f"a batch of {batch} needs as many pairs; {there_are}: "
            f"try --batch {pairs - pairs % unit}"
        )
    if batch < 2 or batch % unit:
        below = batch - batch % unit
        would = [b for b in (below, below + unit) if 0 < b <= pairs]
        raise TrainingInvalid(
            f"the batch is {batch}; expected a multiple of {unit} (pairs of examples on each of "
            f"{ranks} ranks): try --batch {' or '.join(map(str, would))}"
        )
