"""The two retrieval heads, trained on millions of text-picture combinations at hardly any cost.

[RET]'s embedding and everything below is fixed by now, so hidden states and pooled features are
computed once and combined freely: any text with any picture that has what the text says.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from fromage_weights.demo.classes import CLASSES
from fromage_weights.demo.features import ANY, FeatureBank, codes
from fromage_weights.demo.grammar import COLOURS, Wish
from fromage_weights.demo.hardware import Hardware
from fromage_weights.demo.mapping import contrast, whitening
from fromage_weights.demo.reader import Reader
from fromage_weights.demo.samples import Batch, Collator, random_draft

if TYPE_CHECKING:
    from fromage_weights.grounded import GroundedModel


@dataclass(frozen=True)
class HeadsRecipe:
    texts: int = 100_000
    steps: int = 2500
    batch: int = 512
    candidates: int = 3072
    learning_rate: float = 1e-3
    weight_decay: float = 0.02
    ridge: float = 1e-2
    max_scale: float = 60.0
    seed: int = 0


@dataclass(frozen=True)
class StateBank:
    """Hidden states at [RET], (N, H), of texts whose picture has to show `wishes`."""

    wishes: list[Wish]
    states: Tensor


@torch.inference_mode()
def make_states(
    model: GroundedModel,
    bank: FeatureBank,
    *,
    count: int,
    seed: int,
    batch: int = 96,
    hardware: Hardware | None = None,
) -> StateBank:
    """Read random training texts with the frozen LM and keep the states at their [RET]s."""
    hardware = hardware or Hardware.cpu()
    reader, features = Reader(model, hardware), bank.features.to(model.device)
    wishes: list[Wish] = []
    parts: list[Tensor] = []
    make = partial(_texts, bank, Collator(model.tokenizer), batch, seed)
    for read, rows in hardware.made(make, 0, count):  # far fewer will do
        with hardware.autocast():
            hidden = reader.hidden(read, features[rows])
        rets = read.rets.to(hidden.device)
        parts.append(hidden[rets[:, 0], rets[:, 1]].float())
        wishes += read.wishes
        if len(wishes) >= count:
            break
    return StateBank(wishes, torch.cat(parts))


def _texts(
    bank: FeatureBank, collate: Collator, size: int, seed: int, part: int
) -> tuple[Batch, list[int]]:
    """Those of so many texts that have a [RET], and the pictures of their uploads."""
    rng = np.random.default_rng([seed, 11, part])
    drafts = [random_draft(rng, bank.any_scene) for _ in range(size)]
    read = collate([draft for draft in drafts if draft.wishes])
    return read, [bank.row_of(scene, rng) for scene in read.uploads]


def targets(said: Tensor) -> Tensor:
    """(N, 4) codes to (N, K): centred indicators of objects, count (a pair is a count of its own)
    and background; zeros for what is not said."""
    pair = said[:, 0] != said[:, 1]
    things = functional.one_hot(said[:, 0], len(CLASSES)) + functional.one_hot(
        said[:, 1], len(CLASSES)
    )
    count = torch.where(pair, 4, said[:, 2])
    blocks = [things.float() / 2 - 1 / len(CLASSES)]
    for value, size, first in ((count, 4, 1), (said[:, 3], len(COLOURS), 0)):
        known = value != ANY
        block = functional.one_hot((value - first).clamp(min=0), size).float() - 1 / size
        blocks.append(block * known[:, None])
    return torch.cat(blocks, dim=1)


def ridge(inputs: Tensor, wanted: Tensor, strength: float) -> Tensor:
    """(K, D): least squares from whitened inputs, `strength` relative to their unit variance."""
    x = inputs.double()
    level = strength * torch.eye(x.shape[1], dtype=torch.float64, device=x.device)
    gram = x.T @ x / len(x) + level
    solved: Tensor = torch.linalg.solve(gram, x.T @ wanted.double() / len(x)).T.float()
    return solved


class HeadTraining:
    """Whitened inputs, linear maps, big batches; folded into the mappers' layers at the end."""

    def __init__(
        self,
        model: GroundedModel,
        bank: FeatureBank,
        states: StateBank,
        recipe: HeadsRecipe,
        hardware: Hardware | None = None,
    ) -> None:
        self.recipe, self._mappers = recipe, model.mappers
        self._hardware, device = hardware or Hardware.cpu(), model.device
        self._rng = np.random.default_rng([recipe.seed, 13])
        self._scenes = bank.codes.to(device)
        self._matches = bank.matches
        asked = codes(states.wishes)
        keys = [tuple(row) for row in asked.tolist()]
        rows = torch.tensor([i for i, key in enumerate(keys) if key in self._matches])
        self._asked, self._keys = asked[rows].to(device), [keys[i] for i in rows.tolist()]
        kept, features = states.states[rows.to(device)], bank.features.to(device)
        self._text_white = whitening(kept)
        self._image_white = whitening(features)
        self._states = _apply(self._text_white, kept)
        self._features = _apply(self._image_white, features)
        shared = model.mappers.shared_dim
        torch.manual_seed(recipe.seed)
        self._text = _started(self._states, targets(self._asked), shared, recipe.ridge)
        self._image = _started(self._features, targets(self._scenes), shared, recipe.ridge)
        self._scale = nn.Parameter(torch.tensor(3.0, device=device))

    def run(self) -> None:
        recipe = self.recipe
        layers = [*self._text.parameters(), *self._image.parameters()]
        groups = [
            {"params": layers, "weight_decay": recipe.weight_decay},
            {"params": [self._scale], "weight_decay": 0.0, "lr": 1e-2},
        ]
        optimizer = torch.optim.AdamW(groups, recipe.learning_rate, betas=(0.9, 0.98))
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, recipe.steps)
        start, total = time.monotonic(), 0.0
        for step in range(1, recipe.steps + 1):
            loss = self._loss()
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
            total += float(loss.detach())
            if step % 100 == 0:
                pace = (time.monotonic() - start) / step
                scale = float(self._scale.detach().exp())
                print(
                    f"heads {step}/{recipe.steps} loss {total / 100:.4f} scale {scale:.1f} "
                    f"{pace:.3f} s/step",
                    flush=True,
                )
                total = 0.0
        self._fold()

    def _loss(self) -> Tensor:
        texts = self._rng.integers(len(self._keys), size=self.recipe.batch)
        own = [self._matches.one(self._keys[i], self._rng) for i in texts]
        others = self._rng.integers(len(self._scenes), size=self.recipe.candidates)
        rows = torch.from_numpy(np.concatenate([own, others])).to(self._states.device)
        chosen = torch.from_numpy(texts).to(self._states.device)
        with self._hardware.autocast():
            queries = functional.normalize(self._text(self._states[chosen]).float(), dim=1)
            images = functional.normalize(self._image(self._features[rows]).float(), dim=1)
            scores = queries @ images.T
        scale = self._scale.exp().clamp(max=self.recipe.max_scale)
        return contrast(scale * scores.float(), self._asked[chosen], self._scenes[rows])

    @torch.no_grad()
    def _fold(self) -> None:
        """The whitening becomes part of the layers."""
        mappers = self._mappers
        pairs = (
            (mappers.text_hidden_fcs[0], self._text, self._text_white),
            (mappers.visual_fc, self._image, self._image_white),
        )
        for layer, trained, (mean, spread) in pairs:
            assert isinstance(layer, nn.Linear)
            layer.weight.copy_(trained.weight @ spread)
            layer.bias.copy_(trained.bias - layer.weight @ mean)
        mappers.logit_scale.copy_(self._scale.clamp(max=float(np.log(self.recipe.max_scale))))


def _apply(white: tuple[Tensor, Tensor], rows: Tensor) -> Tensor:
    mean, spread = white
    return (rows - mean) @ spread


def _started(inputs: Tensor, wanted: Tensor, shared: int, strength: float) -> nn.Linear:
    """A layer whose first outputs are the ridge fit and whose others start small."""
    layer = nn.Linear(inputs.shape[1], shared, device=inputs.device)
    fit = ridge(inputs, wanted, strength)
    with torch.no_grad():
        layer.bias.zero_()
        layer.weight.normal_(std=0.1 * float(fit.std()))
        layer.weight[: len(fit)] = fit
    return layer


def train_heads(
    model: GroundedModel,
    bank: FeatureBank,
    recipe: HeadsRecipe,
    hardware: Hardware | None = None,
) -> None:
    """Cache the states, train, and write the result into the model's mappers."""
    states = make_states(model, bank, count=recipe.texts, seed=recipe.seed, hardware=hardware)
    print(f"heads: {len(states.wishes)} texts, {len(bank.scenes)} pictures", flush=True)
    HeadTraining(model, bank, states, recipe, hardware).run()
