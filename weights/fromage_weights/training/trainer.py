"""The training loop: which rows make a step, the step, and what is kept of it.

Nothing random is carried from step to step: the order of an epoch and the chances of a step are
made from the seed and their number. A run that goes on from a checkpoint therefore computes what
the run without a break would have.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from fromage_weights.errors import TrainingInvalid
from fromage_weights.files import whole
from fromage_weights.training.cache import FeatureCache
from fromage_weights.training.checkpoint import CHECKPOINT, changed_settings, read_checkpoint
from fromage_weights.training.examples import ExampleMaker
from fromage_weights.training.objective import (
    Example,
    Losses,
    Objective,
    Weights,
    mean_length,
    renormalise_ret,
)
from fromage_weights.training.parallel import Alone, Ranks
from fromage_weights.training.recipe import TrainingRecipe, check_batch
from fromage_weights.training.setup import CHAT

if TYPE_CHECKING:
    from fromage_weights.chat import ChatTemplate
    from fromage_weights.grounded import GroundedModel

LOG = "losses.jsonl"


@dataclass(frozen=True)
class Step:
    """What a step found; `norm` is the gradients' before clipping."""

    number: int
    losses: Losses
    norm: float
    rate: float

    def line(self) -> dict[str, float | int]:
        losses = self.losses
        return {
            "step": self.number,
            "caption": losses.caption,
            "retrieval": losses.retrieval,
            "text_to_image": losses.text_to_image,
            "image_to_text": losses.image_to_text,
            "recall": losses.recall,
            "norm": self.norm,
            "rate": self.rate,
            "tokens": losses.tokens,
        }


class Trainer:
    """One run over one cache. ``rows`` are those it may learn from (default: all); ``origin`` says
    what the model was made of (hashes), and a run goes on from the same only. ``template``: the
    bundle's."""

    def __init__(
        self,
        model: GroundedModel,
        cache: FeatureCache,
        recipe: TrainingRecipe,
        *,
        out: Path | None = None,
        rows: NDArray[np.int64] | None = None,
        ranks: Ranks | None = None,
        origin: Mapping[str, str] | None = None,
        template: ChatTemplate = CHAT,
    ) -> None:
        # Said outright, MKL keeps to it; else it may take fewer for small products, and how a sum
        # is shared out decides its last bit.
        torch.set_num_threads(torch.get_num_threads())
        self.model, self.recipe = model, recipe
        self.step = 0
        self._cache, self._out, self._ranks = cache, out, ranks or Alone()
        self._rows = np.arange(len(cache)) if rows is None else rows
        check_batch(recipe.batch, len(self._rows), self._ranks.size)
        self._model_facts = {**_facts(model), **(origin or {})}
        self._whole_step = True
        self._template = template
        self._make = self._maker(recipe.dialogue)
        weights = Weights(recipe.caption_weight, recipe.retrieval_weight)
        self.objective = Objective(model, ranks=self._ranks, weights=weights)
        model.mappers.requires_grad_(True)
        self._parameters = list(model.mappers.parameters())
        self._optimizer = torch.optim.AdamW(
            self._parameters,
            recipe.learning_rate,
            betas=recipe.betas,
            weight_decay=recipe.weight_decay,
        )
        self._order: tuple[int, NDArray[np.int64]] | None = None
        self._length_of_ret = mean_length(model)
        if out is not None:
            if (out / CHECKPOINT).exists():
                self._load(out / CHECKPOINT)
            self._forget_later_lines(out / LOG)

    @property
    def optimized(self) -> list[nn.Parameter]:
        """What the optimizer holds: the mappers' parameters and nothing else."""
        return [p for group in self._optimizer.param_groups for p in group["params"]]

    @property
    def steps_per_epoch(self) -> int:
        return len(self._rows) // self.recipe.batch

    def run(self, *, save_every: int = 500) -> Iterator[Step]:
        """The remaining steps. Saves every so many, at the end, and when it is closed early."""
        try:
            while self.step < self.recipe.steps:
                made = self._train_step()
                if self.step % save_every == 0:
                    self.save()
                yield made
        finally:
            # An interrupt can fall between the optimizer and [RET]'s row; and of a run that has not
            # learnt anything no checkpoint shall refuse other settings.
            if self._whole_step and self.step:
                self.save()
            self.model.mappers.requires_grad_(False)
            self.model.write_ret_row()

    def examples(self, rows: NDArray[np.int64]) -> list[Example]:
        """Rows of the cache as plain pairs, for validation."""
        plain = self._maker(0.0)
        nothing = np.random.default_rng(0)
        captions = (self._cache.captions[row] for row in rows.tolist())
        pairs = zip(self._cache.features(rows), captions, strict=True)
        return [plain(feature, caption, nothing) for feature, caption in pairs]

    def _maker(self, dialogue: float) -> ExampleMaker:
        return ExampleMaker(
            self.model.tokenizer,
            max_length=self.recipe.max_length,
            dialogue=dialogue,
            template=self._template,
        )

    def images(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Which image each row shows."""
        return self._cache.images[rows]

    def rows(self, step: int) -> NDArray[np.int64]:
        """This rank's share of a step's rows: a run of them, so that pairs stay together."""
        epoch, place = divmod(step, self.steps_per_epoch)
        if self._order is None or self._order[0] != epoch:
            shuffled = np.random.default_rng([self.recipe.seed, epoch]).permutation(self._rows)
            self._order = epoch, shuffled
        size = self.recipe.batch // self._ranks.size
        first = place * self.recipe.batch + self._ranks.rank * size
        return self._order[1][first : first + size]

    def batch(self, step: int) -> list[Example]:
        """This rank's examples of a step."""
        rows = self.rows(step)
        features = self._cache.features(rows)
        return [
            self._make(feature, self._cache.captions[row], self._chance(step, int(row)))
            for feature, row in zip(features, rows.tolist(), strict=True)
        ]

    def _chance(self, *numbers: int) -> np.random.Generator:
        return np.random.default_rng([self.recipe.seed, 0x5EED, *numbers])

    def _train_step(self) -> Step:
        recipe, step = self.recipe, self.step
        concatenate = self._chance(step).random() < recipe.concatenate
        losses = self.objective.losses(self.batch(step), concatenate=concatenate)
        self._optimizer.zero_grad(set_to_none=True)
        losses.total.backward()  # type: ignore[no-untyped-call]
        self._ranks.sum_gradients(self._parameters)
        norm = nn.utils.clip_grad_norm_(self._parameters, recipe.clip)
        if not bool(torch.isfinite(norm)):
            raise TrainingInvalid(
                f"step {step}: the gradients are not finite; begin again in another --out, with a "
                f"lower --learning-rate or --dtype float32 (--cache {self._cache.directory} keeps "
                "the features)"
            )
        rate = recipe.rate(step)
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        self._whole_step = False
        self._optimizer.step()
        renormalise_ret(self.model, self._length_of_ret)
        if recipe.max_scale is not None:
            with torch.no_grad():
                self.model.mappers.logit_scale.clamp_(max=float(np.log(recipe.max_scale)))
        self.step += 1
        made = Step(self.step, losses, float(norm), rate)
        self._note(made)
        self._whole_step = True
        return made

    def _note(self, made: Step) -> None:
        if self._out is None or self._ranks.rank != 0:
            return
        with (self._out / LOG).open("a", encoding="utf-8") as file:
            file.write(json.dumps(made.line()) + "\n")

    def save(self) -> None:
        """Mappers, optimizer and position, in one file that is replaced whole."""
        if self._out is None or self._ranks.rank != 0:
            return
        state = {
            **self._settings(),
            "step": self.step,
            "mappers": self.model.mappers.state_dict(),
            "optimizer": self._optimizer.state_dict(),
        }
        with whole(self._out / CHECKPOINT) as file:
            torch.save(state, file)

    def _load(self, file: Path) -> None:
        state = read_checkpoint(file)
        # A run may be made longer, if its rates don't depend on its length.
        free = ("steps",) if self.recipe.schedule == "constant" else ()
        if changed := changed_settings(state, self._settings(), free):
            raise TrainingInvalid(
                f"{file}: a run with other settings ({', '.join(changed)}); say the old ones, or "
                f"name another --out (--cache {self._cache.directory} keeps the features)"
            )
        self.model.mappers.load_state_dict(state["mappers"])
        self._optimizer.load_state_dict(state["optimizer"])
        self.step = int(state["step"])

    def _settings(self) -> dict[str, dict[str, Any]]:
        """What a run that goes on must have in common with the one before."""
        return {
            "recipe": asdict(self.recipe),
            "cache": asdict(self._cache.info),
            "model": self._model_facts,
            "data": {"pairs": len(self._rows)},
        }

    def _forget_later_lines(self, log: Path) -> None:
        """A run that was killed has logged steps after its last checkpoint; they come again."""
        if self._ranks.rank != 0 or not log.exists():
            return
        lines = log.read_text(encoding="utf-8").splitlines()
        ended = [line for line in lines if line.endswith("}")]
        kept = [line for line in ended if json.loads(line)["step"] <= self.step]
        with whole(log) as file:
            file.write_text("".join(line + "\n" for line in kept), encoding="utf-8")


def _facts(model: GroundedModel) -> dict[str, str]:
    """What mappers must agree in to stand in each other's place, in a user's words."""
    mappers = model.mappers
    return {
        "visual tokens": str(mappers.n_visual_tokens),
        "shared dim": str(mappers.shared_dim),
        "layers": " ".join(map(str, mappers.text_emb_layers)),
        "dtype": str(model.dtype).removeprefix("torch."),
    }
