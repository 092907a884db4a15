"""`fromage train`'s step from cached features, against the original code's step.

    python -m tests.benchmarks.bench_training [--tower ViT-L-14|ViT-B-32|tiny] [--batch 36]

The original runs the vision tower in every step, once for each of its two passes, reads captions
padded to 24 tokens through the whole head, and lets the optimizer hold the whole embedding matrix;
`PlainStep` does the same on the same weights, batches and dtype, its images already decoded. The
kinder line runs the tower once per step and hands both passes the features. Captions have 10 words,
captioning always reads two in a row. Weights are random (OPT-125m's shape); the first losses of
both are compared before anything is timed. What the cache costs, once, is told beside.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor, nn
from torch.nn import functional
from transformers import OPTConfig, OPTForCausalLM, PreTrainedTokenizerFast

from fromage_weights.grounded import GroundedModel
from fromage_weights.mappers import Mappers
from fromage_weights.tokenizer import FromageTokenizer
from fromage_weights.training.cache import FeatureCache
from fromage_weights.training.cache_builder import build_cache
from fromage_weights.training.recipe import TrainingRecipe
from fromage_weights.training.sources import open_source
from fromage_weights.training.trainer import Trainer
from fromage_weights.vision import VisionEncoder

WORDS, LENGTH, SHARED = 50_270, 24, 256
PAD, BEGIN = 1, 2


def build_encoder(name: str) -> VisionEncoder:
    """A tower of random weights."""
    import open_clip

    torch.manual_seed(1)
    if name == "tiny":
        vision = {"image_size": 32, "layers": 2, "width": 64, "patch_size": 8, "head_width": 32}
        text = {"context_length": 8, "vocab_size": 64, "width": 32, "heads": 2, "layers": 1}
        model: Any = open_clip.CLIP(32, vision, text)
    else:
        model = open_clip.create_model(name)
    preprocessing = {"mean": (0.48, 0.46, 0.41), "std": (0.27, 0.26, 0.28)}
    return VisionEncoder(model.visual, preprocessing)


def build_language(dtype: torch.dtype) -> tuple[Any, FromageTokenizer]:
    """OPT-125m's shape; words are w0, w1, …"""
    words = {"<unk>": 0, "<pad>": PAD, "</s>": BEGIN}
    words |= {f"w{i}": i for i in range(3, WORDS)}
    core = Tokenizer(models.WordLevel(words, "<unk>"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    hf = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=core, bos_token="</s>", eos_token="</s>", pad_token="<pad>"
    )
    tokenizer = FromageTokenizer(hf)
    torch.manual_seed(0)
    config = OPTConfig(vocab_size=len(tokenizer), dropout=0.0)
    lm: Any = OPTForCausalLM(config)
    return lm.to(dtype).eval(), tokenizer


def write_pairs(folder: Path, pairs: int, side: int) -> Path:
    rng = np.random.default_rng(0)
    lines = ["caption\timage"]
    for i in range(pairs):
        coarse = rng.integers(0, 256, (7, 7, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((side, side)).save(folder / f"{i}.png")
        words = " ".join(f"w{w}" for w in rng.integers(3, WORDS, 10))
        lines.append(f"{words}\t{i}.png")
    table = folder / "pairs.tsv"
    table.write_text("\n".join(lines) + "\n")
    return table


class PlainStep:
    """The original's step, in its own way."""

    def __init__(
        self,
        lm: Any,
        tower: nn.Module,
        mappers: Mappers,
        ret: int,
        *,
        tower_runs: int,
    ) -> None:
        self._lm, self._tower, self._mappers, self._ret = lm, tower, mappers, ret
        self._tower_runs = tower_runs
        self._table = lm.get_input_embeddings().weight
        self._table.requires_grad_(True)
        trained = [p for n, p in mappers.named_parameters() if not n.startswith("ret_")]
        self._trained = [*trained, self._table]
        self._optimizer = torch.optim.AdamW(self._trained, 3e-4, betas=(0.9, 0.95), weight_decay=0)

    def losses(self, pixels: Tensor, tokens: Tensor, lengths: Tensor) -> tuple[Tensor, list[float]]:
        features = self._features(pixels)
        caption = self._caption(features, tokens, lengths)
        if self._tower_runs == 2:
            features = self._features(pixels)
        words, to_image, to_text = self._retrieval(features, tokens, lengths)
        total = caption + words + (to_image + to_text) / 2
        return total, [float(v.detach()) for v in (caption, words, to_image, to_text)]

    def __call__(self, pixels: Tensor, tokens: Tensor, lengths: Tensor) -> list[float]:
        total, told = self.losses(pixels, tokens, lengths)
        total.backward()  # type: ignore[no-untyped-call]
        assert self._table.grad is not None
        others = torch.arange(len(self._table)) != self._ret
        self._table.grad[others, :] = 0
        nn.utils.clip_grad_norm_(self._trained, 1.0)
        self._optimizer.step()
        self._optimizer.zero_grad()
        with torch.no_grad():
            norm = self._table[:-1].norm(dim=1).mean()
            self._table[-1].div_(self._table[-1].norm() / norm)
        return told

    def _features(self, pixels: Tensor) -> Tensor:
        with torch.no_grad():
            found: Tensor = self._tower(pixels)
        return found

    def _caption(self, features: Tensor, tokens: Tensor, lengths: Tensor) -> Tensor:
        """Pairs of examples in a row, the padding of both behind them."""
        soft = self._mappers.soft_tokens(features).to(self._table.dtype)
        embeds = torch.cat([soft, self._lm.get_input_embeddings()(tokens)], dim=1)
        labels = torch.cat([torch.full(soft.shape[:2], -100), tokens], dim=1)
        rows, wanted = [], []
        ends = (lengths - 1 + soft.shape[1]).tolist()  # [RET] and padding are not learnt
        for i, end in enumerate(ends):
            labels[i, end:] = -100
        for i in range(0, len(tokens), 2):
            a, b = ends[i], ends[i + 1]
            rows.append(
                torch.cat([embeds[i, :a], embeds[i + 1, :b], embeds[i, a:], embeds[i + 1, b:]])
            )
            wanted.append(
                torch.cat([labels[i, :a], labels[i + 1, :b], labels[i, a:], labels[i + 1, b:]])
            )
        output = self._lm(inputs_embeds=torch.stack(rows), output_hidden_states=True)
        return _next_token_loss(output.logits, torch.stack(wanted))

    def _retrieval(
        self, features: Tensor, tokens: Tensor, lengths: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        labels = tokens.masked_fill(torch.arange(tokens.shape[1]) >= lengths[:, None], -100)
        output = self._lm(
            inputs_embeds=self._lm.get_input_embeddings()(tokens), output_hidden_states=True
        )
        mapped = self._mappers.text_hidden_fcs[0](output.hidden_states[-1].float())
        texts = functional.normalize(mapped[torch.arange(len(tokens)), lengths - 1], dim=-1)
        images = self._mappers.logit_scale.exp() * self._mappers.image_embeddings(features)
        scores, own = images @ texts.T, torch.arange(len(tokens))
        words = _next_token_loss(output.logits, labels)
        return words, functional.cross_entropy(scores.T, own), functional.cross_entropy(scores, own)


def _next_token_loss(logits: Tensor, labels: Tensor) -> Tensor:
    shifted = logits[:, :-1].float().flatten(0, 1)
    return functional.cross_entropy(shifted, labels[:, 1:].flatten(), ignore_index=-100)


def padded(trainer: Trainer, step: int, ret: int) -> tuple[Tensor, Tensor]:
    """(B, 24) ids of a step's captions and their lengths, [RET] included."""
    rows = [example.query for example in trainer.batch(step)]
    ids = torch.full((len(rows), LENGTH), PAD)
    for i, row in enumerate(rows):
        assert row[-1] == ret
        ids[i, : len(row)] = torch.tensor(row)
    return ids, torch.tensor([len(row) for row in rows])


def timed(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tower", choices=("ViT-L-14", "ViT-B-32", "tiny"), default="ViT-L-14")
    parser.add_argument("--batch", type=int, default=36)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    args = parser.parse_args(argv)
    dtype: torch.dtype = getattr(torch, args.dtype)
    encoder = build_encoder(args.tower)
    with tempfile.TemporaryDirectory() as name:
        table = write_pairs(Path(name), args.batch, encoder.image_size)
        source = open_source(table)
        cost = timed(lambda: build_cache(Path(name) / "cache", source, encoder, dtype="float32"))
        measure(args, encoder, FeatureCache(Path(name) / "cache"), Path(name), dtype, cost)


def measure(
    args: argparse.Namespace,
    encoder: VisionEncoder,
    cache: FeatureCache,
    folder: Path,
    dtype: torch.dtype,
    cost: float,
) -> None:
    def new_trainer() -> tuple[Trainer, Any, int]:
        lm, tokenizer = build_language(dtype)
        torch.manual_seed(3)
        mappers = Mappers(encoder.dim, 768, 768, 1, SHARED)
        model = GroundedModel(lm, mappers, tokenizer)
        recipe = TrainingRecipe(steps=10_000, batch=args.batch, concatenate=1.0, max_length=LENGTH)
        return Trainer(model, cache, recipe), lm, tokenizer.ret_token_id

    trainer, _, ret = new_trainer()
    plain = []
    for tower_runs in (2, 1):
        _, lm, _ = other = new_trainer()
        tower = encoder.tower if dtype == torch.float32 else _copy(encoder.tower, dtype)
        plain.append(PlainStep(lm, tower, other[0].model.mappers, ret, tower_runs=tower_runs))
    pictures = [
        encoder.preprocess(Image.open(folder / f"{i}.png"), "crop") for i in range(args.batch)
    ]

    def pixels(step: int) -> Tensor:
        return torch.stack([pictures[row] for row in trainer.rows(step).tolist()]).to(dtype)

    ids, lengths = padded(trainer, 0, ret)
    found = trainer.objective.losses(trainer.batch(0), concatenate=True)
    ours = [found.caption, found.retrieval, found.text_to_image, found.image_to_text]
    with torch.no_grad():
        _, theirs = plain[0].losses(pixels(0), ids, lengths)
    print(
        "first losses:  ours", *(f"{v:.4f}" for v in ours), " plain", *(f"{v:.4f}" for v in theirs)
    )
    tolerance = 1e-3 if dtype == torch.float32 else 0.1
    assert np.allclose(ours, theirs, atol=tolerance), "the two compute different things"

    steps = trainer.run(save_every=10**9)
    seconds: dict[str, list[float]] = {"fromage train": [], "original": [], "tower once": []}
    for number in range(args.rounds + 1):
        images = pixels(number)
        ids, lengths = padded(trainer, number, ret)
        runs: dict[str, Callable[[], object]] = {
            "fromage train": lambda: next(steps),
            "original": lambda: plain[0](images, ids, lengths),  # noqa: B023
            "tower once": lambda: plain[1](images, ids, lengths),  # noqa: B023
        }
        order = list(runs)[number % 3 :] + list(runs)[: number % 3]
        found_in = {what: timed(runs[what]) for what in order}
        if number:  # the first one warms up
            for what, value in found_in.items():
                seconds[what].append(value)
    medians = {what: statistics.median(values) for what, values in seconds.items()}
    threads = torch.get_num_threads()
    print(f"{args.tower}, OPT-125m, {args.dtype}, batch {args.batch}, {threads} threads")
    print(f"{'':16}{'s/step':>9}{'min':>8}{'max':>8}{'images/s':>10}   fromage train is faster by")
    for what, value in medians.items():
        ratio = value / medians["fromage train"]
        low, high = min(seconds[what]), max(seconds[what])
        print(f"{what:16}{value:9.3f}{low:8.3f}{high:8.3f}{args.batch / value:10.2f}{ratio:12.2f}x")
    print(f"the cache, once: {args.batch / cost:.2f} images/s (decoding included)")


def _copy(tower: nn.Module, dtype: torch.dtype) -> nn.Module:
    from copy import deepcopy

    return deepcopy(tower).to(dtype)


if __name__ == "__main__":
    main()
