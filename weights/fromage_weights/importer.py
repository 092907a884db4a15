"""Turns a checkpoint of the original code into a bundle."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch

from fromage_weights.bundle import Bundle, ChatTemplate, FrozenModel, save_bundle
from fromage_weights.checkpoint import Checkpoint, read_checkpoint
from fromage_weights.errors import CheckpointInvalid, ModelUnavailable, UnsupportedModel
from fromage_weights.fingerprint import fingerprint
from fromage_weights.language import input_embedding, load_language_model, weight_of
from fromage_weights.towers import canonical_name
from fromage_weights.vision import VisionEncoder

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# The original demo's dialogue: an image stands in front of the turn that shows it.
_CHAT_TEMPLATE = ChatTemplate(
    user="Q: {content}\nA:", assistant=" {content}\n", image_position="before"
)


def import_checkpoint(
    src: str | Path, out: str | Path, lm: str | None = None, vision: str | None = None
) -> Bundle:
    """Read a checkpoint directory or hub repository and write a bundle to ``out``.

    ``lm`` and ``vision`` say where the frozen models are, where the names in model_args.json do
    not lead there: a path, a hub id (or open_clip MODEL/PRETRAINED), or a directory that holds
    models under those names. Both models are loaded once, to record their hashes.
    """
    checkpoint = read_checkpoint(str(src))
    args = checkpoint.args
    lm_source = resolve(args.opt_version, lm)
    vision_source = canonical_name(resolve(args.visual_encoder, vision))
    encoder = VisionEncoder.load(vision_source)
    if encoder.dim != checkpoint.mappers.vision_dim:
        raise UnsupportedModel(
            f"vision tower {vision_source} gives features of {encoder.dim} numbers, "
            f"the checkpoint expects {checkpoint.mappers.vision_dim}"
        )
    model = load_language_model(lm_source, torch.bfloat16)  # half the memory, the same hash
    _check_same_lm(checkpoint, lm_source, model)
    return save_bundle(
        Path(out),
        checkpoint.mappers,
        name=_display_name(str(src)),
        lm=FrozenModel(id=lm_source, hash=fingerprint(model)),
        vision=FrozenModel(id=vision_source, hash=encoder.fingerprint),
        tokenizer_rules="opt-4.33",
        chat_template=_CHAT_TEMPLATE,
        stop=("\n",),
        prompt_image="squash",
    )


def resolve(name: str, override: str | None) -> str:
    """Where to load ``name`` from: an absolute path, or a name that a hub knows."""
    if override is None:
        return name
    path = Path(override)
    if not path.is_dir():
        if override.startswith(("/", ".", "~")):
            raise ModelUnavailable(f"{override}: no such directory")
        return override
    if (path / name).is_dir():
        path = path / name
    return str(path.resolve())


def _display_name(src: str) -> str:
    path = Path(src)
    return path.resolve().name if path.is_dir() else src


def _check_same_lm(checkpoint: Checkpoint, source: str, model: PreTrainedModel) -> None:
    """Some checkpoints carry the frozen embedding matrix too: it tells whether the LM is right.

    Only rows that the LM has and that training left alone are compared, in bfloat16.
    """
    embedding = weight_of(input_embedding(model))
    mappers, matrix = checkpoint.mappers, checkpoint.embedding_matrix
    if embedding.shape[1] != mappers.embed_dim:
        raise UnsupportedModel(
            f"language model {source} has embeddings of {embedding.shape[1]} numbers, "
            f"the checkpoint expects {mappers.embed_dim}"
        )
    if matrix is None:
        return
    frozen = min(checkpoint.args.retrieval_token_idx, len(matrix), len(embedding))
    ours, theirs = embedding[:frozen].bfloat16(), matrix[:frozen].bfloat16()
    differing = int((ours != theirs).any(dim=1).sum())
    if differing:
        raise CheckpointInvalid(
            checkpoint.file,
            f"its embedding matrix differs from language model {source} in {differing} of "
            f"{frozen} frozen rows: this is not the language model it was trained on",
        )
