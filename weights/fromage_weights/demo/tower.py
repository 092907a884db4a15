"""The demo's vision tower: an open_clip CLIP trained contrastively from nothing, then frozen.

Every picture is compared with captions of its whole and of its parts, both ways (InfoNCE with
as many positives as match). The temperature is capped from below: with a soft softmax, only
well separated classes give a small loss, which is what makes the pooled feature linearly
readable, and FROMAGe's mappers are linear (paper section 3).
"""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from fromage_weights.demo import tower_text
from fromage_weights.demo.clip import embeddings
from fromage_weights.demo.contrastive import (
    PART_SIZES,
    WEIGHTS,
    View,
    scenes_loss,
    views_loss,
    views_of,
)
from fromage_weights.demo.hardware import Hardware
from fromage_weights.demo.replayed import load_state, state_of
from fromage_weights.demo.sprites import SpriteBank
from fromage_weights.demo.tower_batches import batch
from fromage_weights.demo.tower_model import (
    IMAGE_SIZE,
    build_tower,
    normalised,
    save_tower,
    to_pixels,
)
from fromage_weights.demo.world import Scene
from fromage_weights.files import whole

MAX_LOGIT_SCALE = math.log(15.0)
CHECKPOINT_NAME = "checkpoint.pt"
Embed: TypeAlias = Callable[[Any, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class TowerRecipe:
    """What a training run depends on. `images` is how many pictures it sees in all."""

    images: int = 1_036_800
    seed: int = 0
    batch_size: int = 192
    learning_rate: float = 1e-3
    weight_decay: float = 0.05
    warmup_steps: int = 100
    variants: int = 10
    checkpoint_every: int = 100

    @property
    def steps(self) -> int:
        return self.images // self.batch_size


class Drawn(NamedTuple):
    """A step's pictures (B, S, S, 3), what they show, and which captions are told, see
    `views_of`."""

    images: NDArray[np.uint8]
    scenes: list[Scene]
    coin: int


def drawn(recipe: TowerRecipe, bank: SpriteBank, step: int) -> Drawn:
    """For this step, the same in every run."""
    rng = np.random.default_rng([recipe.seed, step])
    scenes = batch(recipe.batch_size, rng)
    return Drawn(bank.draw(scenes, rng), scenes, int(rng.integers(4)))


def caption_ids(views: list[View], pictures: int) -> Tensor:
    """(N, L) of all captions of `views`, filled up with rows of 0 to as many every time: a whole
    picture has at most two captions."""
    captions = [caption for _, texts, _ in views for caption in texts]
    most = len(captions) - len(views[-1][1]) + 2 * pictures
    return F.pad(tower_text.tokenize(captions), (0, 0, 0, most - len(captions)))


def step_loss(model: Any, embed: Embed, pixels: Tensor, views: list[View]) -> Tensor:
    """The loss of pictures (B, 3, S, S) and the captions of `views`, embedded by `embed`."""
    ids = caption_ids(views, len(pixels)).to(pixels.device)
    image, text, scale = _embedded(model, embed, pixels, ids)
    told = sum(len(texts) for _, texts, _ in views)
    return scenes_loss(image, text[:told], scale, views)


def filled_loss(model: Any, embed: Embed, pixels: Tensor, ids: Tensor, match: Tensor) -> Tensor:
    """The same of the views' `caption_ids` and `filled_match`."""
    image, text, scale = _embedded(model, embed, pixels, ids)
    matches = torch.split(match.float(), [*PART_SIZES, 2 * len(pixels)], dim=1)
    told = ids[-2 * len(pixels) :].any(1)
    return views_loss(image, text, scale, WEIGHTS, matches, told)


def filled_match(views: list[View]) -> Tensor:
    """(B, N) bool: which of `caption_ids` each picture matches."""
    match = torch.cat([match for _, _, match in views], dim=1).bool()
    return F.pad(match, (0, sum(PART_SIZES) + 2 * len(match) - match.shape[1]))


def _embedded(
    model: Any, embed: Embed, pixels: Tensor, ids: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """(B, E) of the pictures, (N, E) of the captions, and the inverse temperature."""
    # Outside of what is compiled, where threads would add their parts up in any order.
    words = model.token_embedding(ids)
    image, text = embed(model, pixels, words, ids.argmax(-1))
    return image.float(), text.float(), model.logit_scale.exp()


class TowerStep:
    """One step, from numbers on the device to new weights: called with pictures (B, S, S, 3) as
    bytes, `caption_ids`, `filled_match` and the rate, it returns the loss."""

    def __init__(self, model: nn.Module, recipe: TowerRecipe, hardware: Hardware) -> None:
        self._model = model
        self.optimizer = torch.optim.AdamW(
            _groups(model, recipe),
            lr=recipe.learning_rate,
            betas=(0.9, 0.98),
            fused=True,
            capturable=hardware.replays,
        )
        self._embed = partial(hardware.compiled(embeddings), dtype=hardware.dtype)

    def __call__(self, images: Tensor, ids: Tensor, match: Tensor, rate: Tensor) -> Tensor:
        loss = filled_loss(self._model, self._embed, normalised(images), ids, match)
        return self._learn(loss, rate)

    def unfilled(self, pixels: Tensor, views: list[View], rate: float) -> Tensor:
        """The same for what has other shapes every time."""
        return self._learn(step_loss(self._model, self._embed, pixels, views), rate)

    def _learn(self, loss: Tensor, rate: float | Tensor) -> Tensor:
        self._model.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self._model.parameters(), 1.0)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        with torch.no_grad():
            self._model.get_parameter("logit_scale").clamp_(max=MAX_LOGIT_SCALE)
        return loss.detach()


class TowerRun:
    """One training run's state: model, optimizer, schedule and step."""

    def __init__(self, recipe: TowerRecipe, hardware: Hardware | None = None) -> None:
        torch.manual_seed(recipe.seed)
        self.recipe, self._hardware = recipe, hardware or Hardware.cpu()
        self.model = build_tower().train().to(self._hardware.device)
        self._learn = TowerStep(self.model, recipe, self._hardware)
        self._replayed = self._hardware.replayed(self._learn)
        self.step = 0

    def learning_rate(self) -> float:
        """Linear warm-up, then a cosine down to zero."""
        recipe = self.recipe
        warm = min(1.0, (self.step + 1) / recipe.warmup_steps)
        return (
            recipe.learning_rate * warm * 0.5 * (1 + math.cos(math.pi * self.step / recipe.steps))
        )

    def batches(self, bank: SpriteBank) -> Iterator[Drawn]:
        """All that are still to come."""
        make = partial(drawn, self.recipe, bank)
        return self._hardware.made(make, self.step, self.recipe.steps)

    def train_step(self, given: Drawn) -> Tensor:
        views, rate = views_of(given.scenes, coin=given.coin), self.learning_rate()
        if self._hardware.replays:
            images, ids = torch.from_numpy(given.images), caption_ids(views, len(given.images))
            loss = self._replayed(images, ids, filled_match(views), torch.tensor(rate))
        else:
            pixels = to_pixels(given.images, self._hardware.device)
            loss = self._learn.unfilled(pixels, views, rate)
        self.step += 1
        return loss

    def save(self, path: Path) -> None:
        state = {
            "step": self.step,
            "model": self.model.state_dict(),
            "optimizer": state_of(self._learn.optimizer),
        }
        with whole(path) as unfinished:
            torch.save(state, unfinished)

    def restore(self, path: Path) -> None:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        self.step = state["step"]
        self.model.load_state_dict(state["model"])
        load_state(self._learn.optimizer, state["optimizer"])


def _groups(model: nn.Module, recipe: TowerRecipe) -> list[dict[str, Any]]:
    decayed = [p for n, p in model.named_parameters() if p.ndim >= 2 and "positional" not in n]
    plain = [p for n, p in model.named_parameters() if p.ndim < 2 or "positional" in n]
    return [
        {"params": decayed, "weight_decay": recipe.weight_decay},
        {"params": plain, "weight_decay": 0.0},
    ]


def train_tower(
    out_dir: Path,
    *,
    recipe: TowerRecipe | None = None,
    log: Callable[[str], None] = print,
    hardware: Hardware | None = None,
) -> Path:
    """Train, or go on from `out_dir`'s checkpoint, and export to `out_dir`; returns `out_dir`."""
    run = TowerRun(recipe or TowerRecipe(), hardware)
    out_dir.mkdir(parents=True, exist_ok=True)
    checkpoint = out_dir / CHECKPOINT_NAME
    if checkpoint.exists():
        run.restore(checkpoint)
        log(f"tower: goes on from step {run.step}")
    bank_rng = np.random.default_rng(run.recipe.seed + 1)
    bank = SpriteBank(IMAGE_SIZE, variants=run.recipe.variants, rng=bank_rng)
    losses: list[Tensor] = []
    started, first = time.monotonic(), run.step
    for given in run.batches(bank):
        losses.append(run.train_step(given))
        if run.step % 25 == 0:
            rate = (run.step - first) * run.recipe.batch_size / (time.monotonic() - started)
            loss = float(torch.stack(losses).mean())
            log(f"tower: step {run.step}/{run.recipe.steps}  loss {loss:.3f}  {rate:.0f} images/s")
            losses.clear()
        if run.step % run.recipe.checkpoint_every == 0:
            run.save(checkpoint)
    run.save(checkpoint)
    save_tower(run.model, out_dir)
    return out_dir
