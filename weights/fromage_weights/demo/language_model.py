"""The demo's language model: a small GPT-NeoX, trained here from nothing on generated text.

It never sees an image or [RET]. What makes it able to read soft tokens later is noise: while it
learns, the words in an upload's slot stand there as noisy mixtures of word embeddings, so that it
decodes the nearest word from a vector that a linear map from an image can reach.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from fromage_weights.demo.hardware import Hardware
from fromage_weights.demo.language_recipe import LanguageRecipe
from fromage_weights.demo.language_step import Given, LanguageStep
from fromage_weights.demo.neox import Asked
from fromage_weights.demo.replayed import load_state, state_of
from fromage_weights.demo.slot_noise import SlotNoise, kinds
from fromage_weights.demo.stream import TextStream
from fromage_weights.demo.vocabulary import slot_word_ids
from fromage_weights.files import whole
from fromage_weights.language import input_embedding, output_head, weight_of

if TYPE_CHECKING:
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM, PreTrainedTokenizerFast


def configuration(recipe: LanguageRecipe, words: int) -> GPTNeoXConfig:
    """Of a model with so many words; which of them end a text is not said."""
    from transformers import GPTNeoXConfig

    return GPTNeoXConfig(
        vocab_size=words,
        hidden_size=recipe.hidden,
        num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.heads,
        intermediate_size=4 * recipe.hidden,
        max_position_embeddings=recipe.context,
        rope_parameters={
            "rope_type": "default",
            "rope_theta": 10000.0,
            "partial_rotary_factor": 0.5,
        },
        use_parallel_residual=False,
        tie_word_embeddings=False,
    )


def new_model(recipe: LanguageRecipe, tokenizer: PreTrainedTokenizerFast) -> GPTNeoXForCausalLM:
    """Random weights, except for the slot words' input rows, which stay as they are: one
    orthonormal direction each, so that a noisy mixture of them can be told apart by its largest
    part, plus one direction that says which kind of word it is (thing, count or colour), so that
    attention finds them. The head starts as a copy of the input embedding."""
    from transformers import GPTNeoXForCausalLM

    torch.manual_seed(recipe.seed)
    config = configuration(recipe, len(tokenizer))
    config.bos_token_id, config.eos_token_id = tokenizer.bos_token_id, tokenizer.eos_token_id
    lm = GPTNeoXForCausalLM(config)
    table, head = weight_of(input_embedding(lm)), weight_of(output_head(lm))
    with torch.no_grad():
        nn.init.normal_(table, std=recipe.hidden**-0.5)
        ids = slot_word_ids(tokenizer)
        basis, _ = torch.linalg.qr(torch.randn(recipe.hidden, len(ids) + 3))
        table[ids] = basis.T[3:] + basis.T[kinds()]
        head.copy_(table)
    return lm


class LanguageTraining:
    """One run: streams, optimiser, checkpoints; resumes from `directory`/lm.pt if that exists."""

    def __init__(
        self,
        recipe: LanguageRecipe,
        tokenizer: PreTrainedTokenizerFast,
        directory: Path,
        start: nn.Module | None = None,
        hardware: Hardware | None = None,
    ) -> None:
        """`start`: a model with this tokenizer whose weights it begins with."""
        hardware = hardware or Hardware.cpu()
        self.recipe, self.tokenizer = recipe, tokenizer
        self.lm = new_model(recipe, tokenizer)
        if start is not None:
            self.lm.load_state_dict(start.state_dict())
        nn.Module.to(self.lm, hardware.device)
        self._path = directory / "lm.pt"
        table = weight_of(input_embedding(self.lm))
        keep = torch.tensor(slot_word_ids(tokenizer), device=hardware.device)
        table.register_hook(  # type: ignore[no-untyped-call]
            lambda grad: grad.index_fill(0, keep, 0.0)
        )
        noise, self._chance = (torch.Generator().manual_seed(seed) for seed in (1, 2))
        self._chances = (noise, self._chance)
        self._noise = SlotNoise(table.detach()[keep].clone(), recipe.noise, noise)
        # One token a question decides yes or no, among many easy ones.
        self._token_weights = torch.ones(len(tokenizer))
        self._token_weights[tokenizer.convert_tokens_to_ids(["ĠYes", "ĠNo"])] = 4.0
        self._hardware = hardware
        self._learn = LanguageStep(self.lm, self._noise, recipe, hardware)
        self.step = 0
        # A row at a time: of a chunk, whose rows fill no whole number of batches, it is known how
        # many were read.
        self._streams = [
            TextStream(tokenizer, seed=recipe.seed, batch=1, length=length, long=long,
                       hardware=hardware)
            for length, long in ((recipe.length, False), (recipe.context - 1, True))
        ]  # fmt: skip
        self._read = [0, 0]
        self._streams[0].seek(recipe.first_chunk)
        if self._path.exists():
            self._load()

    def run(self, *, log_every: int = 50, save_every: int = 400) -> Iterator[tuple[int, float]]:
        """Train to the end; yields (step, mean loss since the last) every `log_every` steps."""
        self.lm.train()
        losses: list[Tensor] = []
        learn = self._hardware.replayed(self._learn)
        while self.step < self.recipe.total:
            losses.append(learn(*self._given()))
            self.step += 1
            if self.step % save_every == 0 or self.step == self.recipe.total:
                self._save()
            if self.step % log_every == 0 or self.step == self.recipe.total:
                yield self.step, float(torch.stack(losses).mean())
                losses.clear()

    def _given(self) -> Given:
        """What the step learns from, on the CPU."""
        long = self.step >= self.recipe.steps
        self._streams[not long].rest()
        rows = [self._row(long) for _ in range((self.recipe.batch, self.recipe.long_batch)[long])]
        ids, weights, slots = (
            torch.from_numpy(np.concatenate(parts)) for parts in zip(*rows, strict=True)
        )
        pace = self.recipe.pace(self.step)
        rates = [rate * pace for rate in (self.recipe.matrix_rate, self.recipe.learning_rate)]
        self._learn.set_rates(rates)
        self._noise.level = self.recipe.noise_at(self.step)
        asked = self._asked(ids[:, 1:].flatten(), weights[:, 1:].flatten())
        ids, drawn = ids[:, :-1], self._noise.drawn(slots[:, :-1])
        fill_up = self._hardware.replays
        return Given.of(ids, self._positions(ids), asked, drawn, rates, fill_up=fill_up)

    def _row(self, long: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        stream = self._streams[long]
        chunk, row = stream.chunk, stream.next()
        self._read[long] = 1 + (self._read[long] if stream.chunk == chunk else 0)
        return row

    def _asked(self, targets: Tensor, weights: Tensor) -> Asked:
        """Whose loss is taken, of all (N,). A weight below one is the chance of being learnt from:
        the head is costly, questions are noise. Either three quarters of the places or all are
        asked, so that there are two shapes; what does not fit is left out at random."""
        kept = (torch.rand(weights.shape, generator=self._chance) < weights).nonzero()[:, 0]
        some = 3 * len(targets) // 4
        size = some if len(kept) <= 1.1 * some else len(targets)
        chosen = torch.randperm(len(kept), generator=self._chance)[:size]
        places = torch.zeros(size, dtype=torch.long)
        places[: len(chosen)] = kept[chosen.sort().values]
        counts = self._token_weights[targets[places]].maximum(weights[places])
        counts[len(chosen) :] = 0.0
        return Asked(places, targets[places], counts)

    def _positions(self, ids: Tensor) -> Tensor:
        """(B, T): places since a document's start. transformers masks attention between documents
        whose positions start again; a word of the one before is no word of this one."""
        places = torch.arange(ids.shape[1]).expand_as(ids)
        starts = torch.where(ids == self.tokenizer.bos_token_id, places, 0)
        return places - starts.cummax(1).values

    def _save(self) -> None:
        state = {
            "step": self.step,
            "chunks": [stream.chunk for stream in self._streams],
            "read": self._read,
            "chances": [chance.get_state() for chance in self._chances],
            "model": self.lm.state_dict(),
            "optimizers": [state_of(optimizer) for optimizer in self._learn.optimizers],
        }
        with whole(self._path) as unfinished:
            torch.save(state, unfinished)

    def _load(self) -> None:
        state = torch.load(self._path, map_location="cpu", weights_only=True)
        self.step = state["step"]
        self._seek(state["chunks"], state.get("read", [0, 0]))
        for chance, saved in zip(self._chances, state.get("chances", ()), strict=False):
            chance.set_state(saved)
        self.lm.load_state_dict(state["model"])
        for optimizer, saved in zip(self._learn.optimizers, state["optimizers"], strict=True):
            load_state(optimizer, saved)

    def _seek(self, chunks: Sequence[int], read: Sequence[int]) -> None:
        """To where so many rows of the last chunk were read. Where that is not known, as in older
        checkpoints, to the next one."""
        for long, (chunk, rows) in enumerate(zip(chunks, read, strict=True)):
            self._streams[long].seek(chunk - bool(rows))
            for _ in range(rows):
                self._row(bool(long))


def train_language_model(
    recipes: Sequence[LanguageRecipe],
    tokenizer: PreTrainedTokenizerFast,
    directory: Path,
    begun: nn.Module | None = None,
    hardware: Hardware | None = None,
) -> GPTNeoXForCausalLM:
    """Train (or go on) in `directory` and print the progress: by one recipe after the other, each
    with the weights that the one before left, the first with those of `begun`."""
    lm = _train(recipes[0], tokenizer, directory, begun, hardware)
    for leg, recipe in enumerate(recipes[1:], 2):
        lm = _train(recipe, tokenizer, directory / str(leg), lm, hardware)
    return lm


def _train(
    recipe: LanguageRecipe,
    tokenizer: PreTrainedTokenizerFast,
    directory: Path,
    begun: nn.Module | None,
    hardware: Hardware | None,
) -> GPTNeoXForCausalLM:
    """The model, on the CPU."""
    directory.mkdir(parents=True, exist_ok=True)
    training = LanguageTraining(recipe, tokenizer, directory, begun, hardware)
    start, first = time.monotonic(), training.step
    for step, loss in training.run():
        pace = (time.monotonic() - start) / (step - first)
        print(f"lm {step}/{recipe.total} loss {loss:.4f} {pace:.3f} s/step", flush=True)
    nn.Module.to(training.lm, "cpu")
    if begun is not None:
        keep(training.lm, begun, recipe.kept)
    training.lm.eval()  # type: ignore[no-untyped-call]
    return training.lm


@torch.no_grad()
def keep(lm: nn.Module, begun: nn.Module, share: float) -> None:
    """Move the weights of `lm` this share of the way back to those of `begun`."""
    for weight, before in zip(lm.parameters(), begun.parameters(), strict=True):
        weight.lerp_(before.to(weight.dtype), share)
