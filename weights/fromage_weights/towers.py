"""Finds and loads an open_clip vision tower by name, hub id or directory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from fromage_weights.clip_conversion import is_clip_directory, load_clip_directory
from fromage_weights.errors import DamagedFile, ModelUnavailable, one_line

LOCAL = "local-dir:"
_HUB = "hf-hub:"
# OpenAI's checkpoints under the names that official FROMAGe checkpoints use. They were trained
# with QuickGELU; open_clip's plain names use another activation.
OPENAI_CLIP = {
    "openai/clip-vit-base-patch32": "ViT-B-32-quickgelu/openai",
    "openai/clip-vit-base-patch16": "ViT-B-16-quickgelu/openai",
    "openai/clip-vit-large-patch14": "ViT-L-14-quickgelu/openai",
    "openai/clip-vit-large-patch14-336": "ViT-L-14-336-quickgelu/openai",
}


def canonical_name(source: str) -> str:
    """OpenAI's Hugging Face names become open_clip's; anything else stays."""
    return OPENAI_CLIP.get(source, source)


def load_tower(source: str) -> tuple[nn.Module, dict[str, Any]]:
    """The tower on the CPU in float32, and its preprocessing (open_clip's PreprocessCfg keys).

    ``source``: a directory (open_clip_config.json, or a Hugging Face CLIP vision model),
    MODEL/PRETRAINED as open_clip lists them, an OpenAI CLIP name, or a hub id.
    """
    path = Path(source.removeprefix(LOCAL))
    if path.is_dir():
        if (path / "open_clip_config.json").is_file():
            return _create(f"{LOCAL}{path}", None)
        if is_clip_directory(path):
            return load_clip_directory(path)
        raise ModelUnavailable(
            f"vision tower {path}: neither open_clip_config.json nor a CLIP config.json is there"
        )
    if source.startswith((LOCAL, "/", ".")):
        raise ModelUnavailable(f"vision tower {path}: no such directory")
    return _create(*open_clip_name(canonical_name(source)))


def open_clip_name(source: str) -> tuple[str, str | None]:
    """What open_clip calls a tower that is no directory: its name, and which weights."""
    import open_clip

    architecture, _, pretrained = source.partition("/")
    if architecture in open_clip.list_models():
        known = open_clip.list_pretrained_tags_by_model(architecture)
        if pretrained not in known:
            raise ModelUnavailable(
                f"vision tower {source}: {architecture} comes pretrained as "
                f"{', '.join(known) or 'nothing'}"
            )
        _check_activation(architecture, pretrained)
        return architecture, pretrained
    if "/" not in source.removeprefix(_HUB):
        raise ModelUnavailable(
            f"vision tower {source}: expected open_clip's MODEL/PRETRAINED, a hub id or a directory"
        )
    return _HUB + source.removeprefix(_HUB), None


def _check_activation(architecture: str, pretrained: str) -> None:
    """open_clip loads weights that were trained with QuickGELU into a tower without it, and warns;
    what comes out is another tower's."""
    import open_clip

    trained = open_clip.get_pretrained_cfg(architecture, pretrained).get("quick_gelu")
    has = (open_clip.get_model_config(architecture) or {}).get("quick_gelu")
    right = f"{architecture}-quickgelu"
    if trained and not has and right in open_clip.list_models():
        raise ModelUnavailable(
            f"vision tower {architecture}/{pretrained}: these weights were trained with QuickGELU; "
            f"name {right}/{pretrained}"
        )


def _create(name: str, pretrained: str | None) -> tuple[nn.Module, dict[str, Any]]:
    import open_clip
    from safetensors import SafetensorError

    shown = f"{name}/{pretrained}" if pretrained else name
    try:
        model = open_clip.create_model(
            name,
            pretrained=pretrained,
            pretrained_text=False,
            require_pretrained=True,
            weights_only=True,
        )
    except SafetensorError as error:
        where = Path(shown.removeprefix(LOCAL))
        raise DamagedFile(where, f"weights are not readable ({one_line(error)})") from error
    except (OSError, ValueError, RuntimeError) as error:
        raise ModelUnavailable(f"vision tower {shown}: {one_line(error)}") from error
    tower = model.visual
    return tower, dict(tower.preprocess_cfg)
