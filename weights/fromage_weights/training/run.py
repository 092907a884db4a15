"""`fromage train`: from a source of pairs and the names of a frozen pair to a bundle."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from datetime import timedelta
from pathlib import Path

import torch

from fromage_weights.bundle import CONFIG_NAME, Bundle, ChatTemplate
from fromage_weights.devices import choose_device, choose_dtype, full_float32_precision
from fromage_weights.errors import TrainingInvalid
from fromage_weights.grounded import GroundedModel
from fromage_weights.loading import bundle_directory
from fromage_weights.training.board import Board
from fromage_weights.training.cache import FeatureCache
from fromage_weights.training.cache_builder import build_cache, wait_for_features
from fromage_weights.training.checkpoint import CHECKPOINT
from fromage_weights.training.parallel import Alone, ProcessGroup, Ranks
from fromage_weights.training.recipe import check_batch
from fromage_weights.training.setup import (
    Setup,
    load_encoder,
    load_model,
    template_of,
    write_bundle,
)
from fromage_weights.training.sources import CaptionSource
from fromage_weights.training.trainer import LOG, Step, Trainer
from fromage_weights.training.validation import Validation, split, validate
from fromage_weights.vision import VisionEncoder

# While one process validates, the others wait in a collective.
_PATIENCE = timedelta(days=1)


def train(setup: Setup, source: CaptionSource) -> Bundle | None:
    """Features, then steps, then the bundle at ``out``; all of it goes on where it was broken off.

    Under torchrun every process calls this; rank 0 reports and writes, the others give None.
    """
    full_float32_precision()
    with _ranks(choose_device(setup.device)) as (ranks, device):
        _check_place(setup)
        check_batch(setup.recipe.batch, len(source), ranks.size, _held_out(setup, len(source)))
        start = Bundle.load(bundle_directory(setup.start)) if setup.start else None
        # First: it may have to keep the CPU from what it only says it can do.
        dtype = choose_dtype(setup.dtype, device)
        encoder = load_encoder(setup, start).to(device)
        model, lm_hash = load_model(setup, start, encoder.dim, device, dtype)
        cache = _features(setup, source, encoder, ranks)
        origin = {"language model": lm_hash, "bundle gone on from": start.hash if start else "none"}
        _steps(setup, source, cache, model, ranks, origin, template_of(start))
        return write_bundle(setup, start, model, lm_hash, encoder) if ranks.rank == 0 else None


def _check_place(setup: Setup) -> None:
    """Another's bundle is not written over."""
    trained = any((setup.out / name).exists() for name in (CHECKPOINT, LOG))
    if (setup.out / CONFIG_NAME).exists() and not trained:
        raise TrainingInvalid(
            f"{setup.out}: holds a bundle that was not trained there; name another --out"
        )


@contextmanager
def _ranks(device: torch.device) -> Iterator[tuple[Ranks, torch.device]]:
    """torchrun says in the environment how many processes there are."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield Alone(), device
        return
    from torch import distributed

    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(device)
    distributed.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=_PATIENCE)
    try:
        yield ProcessGroup(device), device
    finally:
        distributed.destroy_process_group()


def _cache_directory(setup: Setup) -> Path:
    return setup.cache if setup.cache is not None else setup.out / "features"


def _features(
    setup: Setup, source: CaptionSource, encoder: VisionEncoder, ranks: Ranks
) -> FeatureCache:
    from tqdm import tqdm

    directory = _cache_directory(setup)
    started = time.monotonic()
    with tqdm(total=len(source), unit=" images", desc="features", disable=ranks.rank != 0) as bar:
        info = build_cache(
            directory,
            source,
            encoder,
            dtype=setup.feature_dtype,
            workers=setup.workers,
            rank=ranks.rank,
            ranks=ranks.size,
            progress=lambda done, _: bar.update(done - bar.n),
        )
    wait_for_features(directory, info)
    if ranks.rank == 0:
        _say(
            f"features of {len(source):,} pairs in {directory} ({time.monotonic() - started:.0f} s)"
        )
    cache = FeatureCache(directory)
    if cache.broken and ranks.rank == 0:
        _say(
            f"{len(cache.broken):,} pairs were left out, e.g. {cache.broken[0].key} "
            f"({cache.broken[0].reason}); {directory}/*.broken name them all. Once "
            "they are mended, remove the features to have them read again"
        )
    return cache


def _steps(
    setup: Setup,
    source: CaptionSource,
    cache: FeatureCache,
    model: GroundedModel,
    ranks: Ranks,
    origin: Mapping[str, str],
    template: ChatTemplate,
) -> None:
    from tqdm import tqdm

    rows, judged = split(cache.images, _held_out(setup, len(cache)), setup.recipe.seed)
    held_out = len(judged)
    setup.out.mkdir(parents=True, exist_ok=True)
    trainer = Trainer(
        model,
        cache,
        setup.recipe,
        out=setup.out,
        rows=rows,
        ranks=ranks,
        origin=origin,
        template=template,
    )
    shown = ranks.rank == 0
    if shown:
        _say_begin(setup, trainer.step, held_out)
    with ExitStack() as stack:
        on = setup.tensorboard and shown
        board = stack.enter_context(
            closing(Board(setup.out / "tensorboard", on, step=trainer.step))
        )
        bar = stack.enter_context(
            tqdm(
                total=setup.recipe.steps,
                initial=trainer.step,
                unit=" steps",
                desc="training",
                disable=not shown,
            )
        )
        pace = _Pace()
        for made in trainer.run(save_every=setup.save_every):
            bar.set_postfix(_told(made, pace.tokens_per_second(made)), refresh=False)
            bar.update()
            board.step(made)
            due = made.number % setup.validate_every == 0 or made.number == setup.recipe.steps
            if shown and held_out and due:
                found = validate(trainer, judged)
                board.validation(made.number, found)
                board.panels(made.number, found, cache, source, judged)
                bar.write(f"step {made.number:,}: {_validated(found, held_out)}", file=sys.stderr)


def _held_out(setup: Setup, pairs: int) -> int:
    return min(setup.validation, pairs // 5)


def _say_begin(setup: Setup, step: int, held_out: int) -> None:
    if held_out < setup.validation:
        _say(f"{held_out:,} pairs are held out: a fifth of all, not {setup.validation:,}")
    if setup.tensorboard and not held_out:
        _say("no pairs are held out: without --validation N, TensorBoard shows no retrieved images")
    if step >= setup.recipe.steps:
        _say(f"was at step {step:,} already; nothing to do up to {setup.recipe.steps:,}")
    elif step:
        _say(f"goes on from step {step:,}")


class _Pace:
    def __init__(self) -> None:
        self._start, self._tokens = time.monotonic(), 0

    def tokens_per_second(self, made: Step) -> float:
        self._tokens += made.losses.tokens
        return self._tokens / max(1e-9, time.monotonic() - self._start)


def _told(made: Step, pace: float) -> dict[str, str]:
    losses = made.losses
    return {
        "caption": f"{losses.caption:.3f}",
        "retrieval": f"{losses.retrieval:.3f}",
        "match": f"{(losses.text_to_image + losses.image_to_text) / 2:.3f}",
        "R@1": f"{100 * losses.recall:.0f}%",
        "tokens/s": f"{pace:,.0f}",
    }


def _validated(found: Validation, held_out: int) -> str:
    return f"{found} of {held_out:,} held out"


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
