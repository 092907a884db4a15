"""What a training run is made of, and the bundle that comes out of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from fromage_weights.bundle import Bundle, ChatTemplate, FrozenModel, save_bundle
from fromage_weights.errors import BundleMismatch, TrainingInvalid, UnsupportedModel
from fromage_weights.fingerprint import fingerprint
from fromage_weights.grounded import GroundedModel
from fromage_weights.language import (
    context_length,
    input_embedding,
    is_tied,
    load_language_model,
    output_head,
    weight_of,
)
from fromage_weights.mappers import Mappers
from fromage_weights.tokenizer import load_tokenizer
from fromage_weights.towers import canonical_name
from fromage_weights.training.examples import ExampleMaker
from fromage_weights.training.recipe import TrainingRecipe
from fromage_weights.vision import VisionEncoder

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from fromage_weights.tokenizer import FromageTokenizer

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


def load_encoder(setup: Setup, start: Bundle | None) -> VisionEncoder:
    source = _vision_source(setup, start)
    encoder = VisionEncoder.load(source)
    if setup.vision is None and start is not None:
        _check_hash("vision encoder", source, start, start.config.vision, encoder.fingerprint)
    return encoder


def _check_hash(part: str, source: str, start: Bundle, named: FrozenModel, found: str) -> None:
    if found != named.hash:
        raise BundleMismatch(part, source, named.hash, found)
    start.check_files(named)


def _vision_source(setup: Setup, start: Bundle | None) -> str:
    if setup.vision is not None:
        return canonical_name(setup.vision)
    if start is None:
        raise TrainingInvalid("name the frozen pair: --lm and --vision, or --bundle to go on from")
    return start.frozen_source(start.config.vision)


def load_model(
    setup: Setup,
    start: Bundle | None,
    vision_dim: int,
    device: torch.device,
    dtype: torch.dtype,
) -> tuple[GroundedModel, str]:
    """The model, and the fingerprint that its LM has before it gets a [RET] row."""
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
    if setup.lm is None and start is not None:
        _check_hash("language model", source, start, start.config.lm, lm_hash)
    tokenizer = load_tokenizer(source, ret_token=ret, rules=rules)
    if mappers is None:
        mappers = new_mappers(lm, vision_dim, setup)
    elif mappers.vision_dim != vision_dim:
        raise UnsupportedModel(
            f"the tower gives features of {vision_dim} numbers, the bundle's mappers read "
            f"{mappers.vision_dim}"
        )
    _check_room(lm, tokenizer, mappers, setup.recipe, template_of(start))
    torch.nn.Module.to(lm, device)
    return GroundedModel(lm, mappers, tokenizer), lm_hash


def template_of(start: Bundle | None) -> ChatTemplate:
    return CHAT if start is None else start.config.chat_template


def _check_room(
    lm: PreTrainedModel,
    tokenizer: FromageTokenizer,
    mappers: Mappers,
    recipe: TrainingRecipe,
    template: ChatTemplate,
) -> None:
    together = 2 if recipe.concatenate > 0 else 1
    texts = ExampleMaker(
        tokenizer, max_length=recipe.max_length, dialogue=recipe.dialogue, template=template
    ).longest
    longest = together * (mappers.n_visual_tokens + texts)
    if longest > (most := context_length(lm.config)):
        raise TrainingInvalid(
            f"{together} x ({mappers.n_visual_tokens} soft tokens and {texts} of a caption and its "
            f"dialogue) are more than the {most:,} positions of the language model: lower "
            "--max-length or --visual-tokens"
        )


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


def write_bundle(
    setup: Setup, start: Bundle | None, model: GroundedModel, lm_hash: str, encoder: VisionEncoder
) -> Bundle:
    """The bundle beside the checkpoint: it names the frozen pair, and their hashes."""
    if start is not None:
        kept: dict[str, Any] = start.config.model_dump(include=_KEPT)
    else:
        kept = {
            "chat_template": CHAT,
            "stop": ("\n",),
            # Replies of its dialogues end with their picture; what would follow was never learnt.
            "stop_after_ret": setup.recipe.dialogue > 0,
            "prompt_image": "crop",
        }
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
