"""Training the mappers, the only part that ever sees pictures and text together.

The language model and the tower are frozen. The losses are the paper's (section 3): captioning and
question answering through the frozen LM for `visual_embeddings`, next-token prediction of [RET],
and InfoNCE between the hidden state at [RET] and pictures.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from fromage_weights.demo.features import FeatureBank, admitted, codes, unjudged
from fromage_weights.demo.grammar import COLOURS, COUNT_WORDS, NAMES, PAIR_WORD, slot_words
from fromage_weights.demo.hardware import Hardware
from fromage_weights.demo.reader import Reader, filled_up
from fromage_weights.demo.results import Checkpoint
from fromage_weights.demo.samples import Batch, Collator, Draft, random_draft
from fromage_weights.demo.vocabulary import token_id
from fromage_weights.language import input_embedding, weight_of

if TYPE_CHECKING:
    from fromage_weights.grounded import GroundedModel
    from fromage_weights.tokenizer import FromageTokenizer

# Which words can stand in each of the four slots.
SLOT_CHOICES = (NAMES, NAMES, (*COUNT_WORDS, PAIR_WORD), COLOURS)


@dataclass(frozen=True)
class MappingRecipe:
    """`probe_steps` fit the soft tokens to names alone; `steps` go through the frozen LM.

    `uploads`: how often a text without a soft token is drawn again.
    """

    probe_steps: int = 1500
    steps: int = 900
    batch: int = 48
    candidates: int = 768
    learning_rate: float = 1e-3
    warmup: int = 50
    uploads: float = 0.4
    seed: int = 0

    def rate(self, step: int) -> float:
        falling = (self.steps - step) / (0.5 * self.steps)
        return self.learning_rate * min(1.0, (step + 1) / self.warmup, falling)


def slot_labels(bank: FeatureBank) -> Tensor:
    """(N, 4): for each picture, which of `SLOT_CHOICES` belongs into each slot."""
    tables = [{word: i for i, word in enumerate(words)} for words in SLOT_CHOICES]
    rows = [
        [table[word] for table, word in zip(tables, slot_words(scene), strict=True)]
        for scene in bank.scenes
    ]
    return torch.tensor(rows)


def fit_slots(
    model: GroundedModel,
    bank: FeatureBank,
    *,
    steps: int,
    seed: int,
    batch: int = 2048,
) -> list[float]:
    """Start `visual_embeddings` where each soft token is nearest to the right word's embedding.

    A softmax over the words of each slot, scored by the inner product with their embeddings, on
    whitened features; the whitening is folded into the layer. Returns each slot's accuracy on
    the pictures it was fitted to.
    """
    table = weight_of(input_embedding(model.lm)).detach().float()
    ids = [[token_id(model.tokenizer.hf, w) for w in words] for words in SLOT_CHOICES]
    words = [table[i] - table[i].mean(0) for i in ids]
    device = table.device
    labels, features = slot_labels(bank).to(device), bank.features.to(device)
    mean, spread = whitening(features)
    white = (features - mean) @ spread
    torch.manual_seed(seed)
    maps = [nn.Linear(white.shape[1], len(w)).to(device) for w in words]
    optimizer = torch.optim.AdamW([p for m in maps for p in m.parameters()], 3e-3, weight_decay=0.1)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        rows = torch.randint(len(white), (batch,)).to(device)
        scores = [m(white[rows]) for m in maps]
        pairs = zip(scores, labels[rows].T, strict=True)
        loss = torch.stack([functional.cross_entropy(s, y) for s, y in pairs]).sum()
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
    accuracy = []
    weights, biases = [], []
    with torch.no_grad():
        for one, word, target in zip(maps, words, labels.T, strict=True):
            scores = one(white)
            accuracy.append(float((scores.argmax(1) == target).float().mean()))
            # Centred over the words and scaled to about unit length for the right one.
            weight = one.weight - one.weight.mean(0)
            bias = one.bias - one.bias.mean()
            right = scores - scores.mean(1, keepdim=True)
            scale = 1 / right.gather(1, target[:, None]).mean()
            weights.append(scale * word.T @ weight @ spread.T)
            biases.append(scale * word.T @ bias)
        layer = model.mappers.visual_embeddings
        layer.weight.copy_(torch.cat(weights))
        layer.bias.copy_(torch.cat(biases) - layer.weight @ mean)
    return accuracy


def whitening(features: Tensor, floor: float = 1e-3) -> tuple[Tensor, Tensor]:
    """Mean (D,) and symmetric S (D, D) such that (x - mean) @ S has about unit covariance."""
    mean = features.mean(0)
    centred = (features - mean).double()
    values, vectors = torch.linalg.eigh(centred.T @ centred / len(centred))
    scale = (values + floor * values.mean()).rsqrt()
    return mean, (vectors * scale @ vectors.T).float()


def start_ret(model: GroundedModel, tokenizer: FromageTokenizer) -> None:
    """[RET] starts as a copy of "!", the end of every closer: what the LM knows there, it also
    knows at [RET]."""
    (mark,) = tokenizer.encode("!")
    mappers = model.mappers
    with torch.no_grad():
        mappers.ret_embedding.copy_(weight_of(input_embedding(model.lm))[mark][None])
        if mappers.ret_head is not None:
            mappers.ret_head.zero_()


class Prepared(NamedTuple):
    """A step's texts; rows of the feature bank for their uploads, and for their [RET]s to choose
    from."""

    batch: Batch
    uploads: list[int]
    candidates: NDArray[np.int64]


class MapperTraining:
    """The joint stage: every mapper, every loss, through the frozen LM, whose device everything
    else comes to. Goes on from the file `checkpoint` if that exists."""

    def __init__(
        self,
        model: GroundedModel,
        bank: FeatureBank,
        recipe: MappingRecipe,
        hardware: Hardware | None = None,
        checkpoint: Path | None = None,
    ) -> None:
        self.model, self.bank, self.recipe = model, bank, recipe
        self._hardware = hardware or Hardware.cpu()
        self.reader = Reader(model, self._hardware)
        self._collate = Collator(model.tokenizer)
        self._features = bank.features.to(model.device)
        self._groups = self._learnt()
        self._optimizer = torch.optim.AdamW(self._groups, betas=(0.9, 0.95), weight_decay=0.0)
        self._checkpoint = Checkpoint(checkpoint) if checkpoint else None
        self.step = 0
        if self._checkpoint:
            self.step = self._checkpoint.load(model.mappers, self._optimizer)

    def _learnt(self) -> list[dict[str, Any]]:
        """The [RET] rows are single vectors and learn faster than the layers."""
        mappers = self.model.mappers
        mappers.requires_grad_(True)
        single = [mappers.ret_embedding, mappers.logit_scale]
        if mappers.ret_head is not None:
            single.append(mappers.ret_head)
        layers = [*mappers.visual_fc.parameters(), *mappers.text_hidden_fcs.parameters()]
        return [
            {"params": list(mappers.visual_embeddings.parameters()), "factor": 0.3},
            {"params": layers, "factor": 1.0},
            {"params": single, "factor": 5.0},
        ]

    def run(
        self, log_every: int = 50, save_every: int = 100
    ) -> Iterator[tuple[int, dict[str, float]]]:
        sums: dict[str, float] = {}
        for given in self._hardware.made(self._prepared, self.step, self.recipe.steps):
            for group in self._optimizer.param_groups:
                group["lr"] = group["factor"] * self.recipe.rate(self.step)
            for name, value in self._step(given).items():
                sums[name] = sums.get(name, 0.0) + value / log_every
            self.step += 1
            due = self.step % save_every == 0 or self.step == self.recipe.steps
            if self._checkpoint and due:
                self._checkpoint.save(self.step, self.model.mappers, self._optimizer)
            if self.step % log_every == 0:
                yield self.step, sums
                sums = {}

    def _prepared(self, step: int) -> Prepared:
        rng = np.random.default_rng([self.recipe.seed, 5, step])
        drafts = [self._draft(rng) for _ in range(self.recipe.batch)]
        batch = self._collate(drafts)
        rows = [self.bank.row_of(scene, rng) for scene in batch.uploads]
        drawn = rng.integers(len(self.bank.scenes), size=self.recipe.candidates)
        # One match at least for every wish that has any.
        matches = self.bank.matches
        keys = [key for row in codes(batch.wishes).tolist() if (key := tuple(row)) in matches]
        extra = [matches.one(key, rng) for key in keys]
        return Prepared(batch, rows, np.concatenate([drawn, np.array(extra, dtype=np.int64)]))

    def _step(self, given: Prepared) -> dict[str, float]:
        batch, device = given.batch, self.model.device
        learnt = batch.weights[:, 1:] > 0
        where = learnt.nonzero().to(device)
        with self._hardware.autocast():
            hidden = self.reader.hidden(batch, self._features[given.uploads])
            asked = hidden[where[:, 0], where[:, 1]]
            logits = self.reader.logits(filled_up(asked, 512))
        targets = batch.ids[:, 1:][learnt].to(device)
        logits = logits[: len(targets)]
        text = functional.cross_entropy(logits.float(), targets)
        losses = {"text": text}
        if len(batch.rets):
            rets = batch.rets.to(device)
            states = hidden[rets[:, 0], rets[:, 1]].float()
            losses["match"] = 0.3 * self._contrast(states, given)
        self._optimizer.zero_grad(set_to_none=True)
        total = torch.stack(list(losses.values())).sum()
        total.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_([p for g in self._groups for p in g["params"]], 1.0)
        self._optimizer.step()
        is_ret = targets == self.model.ret_token_id
        chosen = logits.argmax(1) == self.model.ret_token_id
        numbers = {name: float(loss.detach()) for name, loss in losses.items()}
        numbers["ret"] = float((chosen & is_ret).sum() / is_ret.sum().clamp(min=1))
        numbers["stray"] = float((chosen & ~is_ret).float().mean())
        return numbers

    def _draft(self, rng: np.random.Generator) -> Draft:
        draft = random_draft(rng, self.bank.any_scene)
        while not draft.uploads and rng.random() < self.recipe.uploads:
            draft = random_draft(rng, self.bank.any_scene)
        return draft

    def _contrast(self, states: Tensor, given: Prepared) -> Tensor:
        rows = torch.from_numpy(given.candidates)
        asked, shown = codes(given.batch.wishes), self.bank.codes[rows]
        queries = self.model.mappers.query_embeddings(states[:, None])
        images = self.model.mappers.image_embeddings(self._features[rows.to(states.device)])
        scale = self.model.mappers.logit_scale.exp().clamp(max=100.0)
        scores = scale * queries @ images.T
        return contrast(scores, asked.to(scores.device), shown.to(scores.device))


def contrast(scores: Tensor, wishes: Tensor, scenes: Tensor) -> Tensor:
    """InfoNCE with as many positives as match: -log of the share of probability on pictures that
    the wish admits, averaged over wishes that have one; unjudged pictures are left out."""
    right = admitted(wishes, scenes)
    scores = scores.masked_fill(unjudged(wishes, scenes), float("-inf"))
    answered = right.any(1)
    good = scores.masked_fill(~right, float("-inf"))[answered].logsumexp(1)
    return (scores[answered].logsumexp(1) - good).mean()


def train_mappers(
    model: GroundedModel,
    bank: FeatureBank,
    recipe: MappingRecipe,
    *,
    begun: bool = False,
    hardware: Hardware | None = None,
    checkpoint: Path | None = None,
) -> None:
    """Both stages, printing the progress; the second one alone where the mappers have ``begun``, or
    where it has: then it goes on from ``checkpoint``."""
    training = MapperTraining(model, bank, recipe, hardware, checkpoint)
    first = training.step
    if not begun and not first:
        accuracy = fit_slots(model, bank, steps=recipe.probe_steps, seed=recipe.seed)
        print("slots, nearest word right:", " ".join(f"{a:.3f}" for a in accuracy), flush=True)
        start_ret(model, model.tokenizer)
    start = time.monotonic()
    for step, numbers in training.run():
        line = " ".join(f"{name} {value:.4f}" for name, value in numbers.items())
        pace = (time.monotonic() - start) / (step - first)
        print(f"mappers {step}/{recipe.steps} {line} {pace:.3f} s/step", flush=True)
    model.mappers.requires_grad_(False)
    model.write_ret_row()
