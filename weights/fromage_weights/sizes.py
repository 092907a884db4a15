"""How large a bundle's frozen models are, from their configurations: no weight is read."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from fromage_weights.clip_conversion import is_clip_directory
from fromage_weights.errors import ModelUnavailable, one_line
from fromage_weights.towers import LOCAL, canonical_name, open_clip_name

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def language_model_outline(source: str) -> PreTrainedModel:
    """The model of a directory or a hub id, without storage for its numbers."""
    from transformers import AutoConfig, AutoModelForCausalLM

    try:
        config = AutoConfig.from_pretrained(source, trust_remote_code=False)
        with torch.device("meta"):
            lm: PreTrainedModel = AutoModelForCausalLM.from_config(config)  # type: ignore[no-untyped-call]
            return lm
    except (OSError, ValueError) as error:
        raise ModelUnavailable(f"language model {source}: {one_line(error)}") from error


def language_model_parameters(lm: PreTrainedModel) -> int:
    """Tied matrices counted once."""
    return sum(parameter.numel() for parameter in lm.parameters())


def tower_parameters(source: str) -> int:
    """Of the vision tower alone, without its text tower."""
    path = Path(source.removeprefix(LOCAL))
    if path.is_dir():
        prefix = "vision_model." if is_clip_directory(path) else "visual."
        return _stored_parameters(path, prefix)
    return _outline_parameters(*open_clip_name(canonical_name(source)))


def _stored_parameters(path: Path, prefix: str) -> int:
    from safetensors import safe_open

    total = 0
    for file in sorted(path.glob("*.safetensors")):
        with safe_open(file, framework="pt") as tensors:
            stored = list(tensors.keys())
            for name in [name for name in stored if name.startswith(prefix)] or stored:
                total += math.prod(tensors.get_slice(name).get_shape())
    if not total:
        raise ModelUnavailable(f"vision tower {path}: no weights in safetensors form are there")
    return total


def _outline_parameters(name: str, pretrained: str | None) -> int:
    import open_clip

    try:
        with torch.device("meta"):
            model = open_clip.create_model(name, pretrained=None, load_weights=False, device="meta")
    except (OSError, ValueError, RuntimeError) as error:
        raise ModelUnavailable(f"vision tower {name}: {one_line(error)}") from error
    return sum(parameter.numel() for parameter in model.visual.parameters())
