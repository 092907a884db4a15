"""`fromage train`: from a source of pairs and the names of a frozen pair to a bundle."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from fromage_weights.bundle import Bundle, ChatTemplate, FrozenModel, save_bundle
from fromage_weights.devices import choose_device, choose_dtype, full_float32_precision
from fromage_weights.errors import TrainingInvalid, UnsupportedModel
from fromage_weights.fingerprint import fingerprint
from fromage_weights.grounded import GroundedModel
from fromage_weights.language import (
    input_embedding,
    is_tied,
    load_language_model,
    output_head,
    weight_of,
)
from fromage_weights.loading import bundle_directory
from fromage_weights.mappers import Mappers
from fromage_weights.tokenizer import load_tokenizer
from fromage_weights.towers import canonical_name
from fromage_weights.training.board import Board
from fromage_weights.training.cache import FeatureCache, build_cache
from fromage_weights.training.parallel import Alone, ProcessGroup, Ranks
from fromage_weights.training.recipe import TrainingRecipe
from fromage_weights.training.sources import CaptionSource
from fromage_weights.training.trainer import Step, Trainer
from fromage_weights.training.validation import Validation, split, validate
from fromage_weights.vision import VisionEncoder

if TYPE_CHECKING:
    from transformers import PreTrainedModel

CHAT = ChatTemplate(image_position="before")
# What a bundle says that training does not change.
_KEPT = {
    "ret_token",
    "tokenizer_rules",
    "chat_template",
    "stop",
    "stop_after_ret",
    "prompt_image",
}


@dataclass(frozen=True)
class Setup:
    """What to train, beside the recipe. ``start`` is a bundle whose mappers are gone on with; it
    names the frozen pair where ``lm`` and ``vision`` don't."""

    out: Path
    lm: str | None = None
    vision: str | None = None
    start: str | None = None
    name: str | None = None
    cache: Path | None = None
    n_visual_tokens: int = 1
    shared_dim: int = 256
    text_emb_layers: tuple[int, ...] = (-1,)
    device: str = "auto"
    dtype: str = "auto"
    feature_dtype: str = "float16"
    workers: int = 4
    validation: int = 0
    validate_every: int = 500
    save_every: int = 500
    tensorboard: bool = False
    recipe: TrainingRecipe = field(default_factory=TrainingRecipe)


def train(setup: Setup, source: CaptionSource) -> Bundle | None:
    """Features, then steps, then the bundle at ``out``; all of it goes on where it was broken off.

    Under torchrun every process calls this; rank 0 reports and writes, the others give None.
    """
    full_float32_precision()
    with _ranks(choose_device(setup.device)) as (ranks, device):
        start = Bundle.load(bundle_directory(setup.start)) if setup.start else None
        encoder = VisionEncoder.load(_vision_source(setup, start)).to(device)
        cache = _features(setup, source, encoder, ranks)
        model, lm_hash = _model(setup, start, encoder.dim, device)
        if cache.broken and ranks.rank == 0:
            _say(
                f"{len(cache.broken):,} images were left out, e.g. {cache.broken[0].key} "
                f"({cache.broken[0].reason}); all are named in {_cache_directory(setup)}"
            )
        _steps(setup, source, cache, model, ranks)
        return _write(setup, start, model, lm_hash, encoder) if ranks.rank == 0 else None


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
    distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield ProcessGroup(device), device
    finally:
        distributed.destroy_process_group()


def _vision_source(setup: Setup, start: Bundle | None) -> str:
    if setup.vision is not None:
        return canonical_name(setup.vision)
    if start is None:
        raise TrainingInvalid("name the frozen pair: --lm and --vision, or --bundle to go on from")
    return start.frozen_source(start.config.vision)


def _cache_directory(setup: Setup) -> Path:
    return setup.cache if setup.cache is not None else setup.out / "features"


def _features(
    setup: Setup, source: CaptionSource, encoder: VisionEncoder, ranks: Ranks
) -> FeatureCache:
    from tqdm import tqdm

    directory = _cache_directory(setup)
    started = time.monotonic()
    with tqdm(total=len(source), unit=" images", desc="features", disable=ranks.rank != 0) as bar:
        build_cache(
            directory,
            source,
            encoder,
            dtype=setup.feature_dtype,
            workers=setup.workers,
            rank=ranks.rank,
            ranks=ranks.size,
            progress=lambda done, _: bar.update(done - bar.n),
        )
    ranks.total(torch.zeros(1))  # nobody reads before everybody has written
    if ranks.rank == 0:
        _say(
            f"features of {len(source):,} pairs in {directory} ({time.monotonic() - started:.0f} s)"
        )
    return FeatureCache(directory)


def _model(
    setup: Setup, start: Bundle | None, vision_dim: int, device: torch.device
) -> tuple[GroundedModel, str]:
    """The model, and the fingerprint that its LM has before it gets a [RET] row."""
    dtype = choose_dtype(setup.dtype, device)
    if start is not None:
        source = setup.lm or start.frozen_source(start.config.lm)
        config, mappers = start.config, start.mappers
        rules, ret = config.tokenizer_rules, config.ret_token
    else:
        if setup.lm is None:
            raise TrainingInvalid("name a language model with --lm")
        source, rules, ret = setup.lm, "plain", "[RET]"
        mappers = None
    lm = load_language_model(source, dtype)
    lm_hash = fingerprint(lm)
    tokenizer = load_tokenizer(source, ret_token=ret, rules=rules)
    if mappers is None:
        mappers = new_mappers(lm, vision_dim, setup)
    elif mappers.vision_dim != vision_dim:
        raise UnsupportedModel(
            f"the tower gives features of {vision_dim} numbers, the bundle's mappers read "
            f"{mappers.vision_dim}"
        )
    torch.nn.Module.to(lm, device)
    return GroundedModel(lm, mappers, tokenizer), lm_hash


def new_mappers(lm: PreTrainedModel, vision_dim: int, setup: Setup) -> Mappers:
    """Untrained ones that fit; [RET] starts at the mean of the embedding's rows."""
    torch.manual_seed(setup.recipe.seed)
    embedding, head = weight_of(input_embedding(lm)), weight_of(output_head(lm))
    mappers = Mappers(
        vision_dim,
        embedding.shape[1],
        head.shape[1],
        setup.n_visual_tokens,
        setup.shared_dim,
        setup.text_emb_layers,
        is_tied(lm),
    )
    with torch.no_grad():
        # Near the others, but not on them: resized models start new rows as their mean, too.
        noise = torch.randn_like(mappers.ret_embedding) * embedding.float().std() * 0.1
        mappers.ret_embedding.copy_(embedding.float().mean(0, keepdim=True) + noise)
        if mappers.ret_head is not None:
            mappers.ret_head.copy_(head.float().mean(0, keepdim=True))
    return mappers


def _steps(
    setup: Setup, source: CaptionSource, cache: FeatureCache, model: GroundedModel, ranks: Ranks
) -> None:
    from tqdm import tqdm

    held_out = min(setup.validation, len(cache) // 5)
    rows, judged = split(len(cache), held_out, setup.recipe.seed)
    setup.out.mkdir(parents=True, exist_ok=True)
    trainer = Trainer(model, cache, setup.recipe, out=setup.out, rows=rows, ranks=ranks)
    shown = ranks.rank == 0
    if shown and trainer.step:
        _say(f"goes on from step {trainer.step:,}")
    with ExitStack() as stack:
        board = stack.enter_context(
            closing(Board(setup.out / "tensorboard", setup.tensorboard and shown))
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


def _write(
    setup: Setup, start: Bundle | None, model: GroundedModel, lm_hash: str, encoder: VisionEncoder
) -> Bundle:
    """The bundle beside the checkpoint: it names the frozen pair, and their hashes."""
    if start is not None:
        kept: dict[str, Any] = start.config.model_dump(include=_KEPT)
    else:
        kept = {"chat_template": CHAT, "stop": ("\n",), "prompt_image": "crop"}
    lm_source = setup.lm or (start.frozen_source(start.config.lm) if start else "")
    return save_bundle(
        setup.out,
        model.mappers,
        name=setup.name or setup.out.resolve().name,
        lm=FrozenModel(id=_absolute(lm_source), hash=lm_hash),
        vision=FrozenModel(id=_absolute(_vision_source(setup, start)), hash=encoder.fingerprint),
        **kept,
    )


def _absolute(source: str) -> str:
    path = Path(source)
    return str(path.resolve()) if path.is_dir() else source


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
