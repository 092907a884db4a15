"""A Hugging Face CLIPVisionModel directory as an open_clip tower."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from fromage_weights.errors import DamagedFile, UnsupportedModel
from fromage_weights.mappers import check_tensors, read_tensors

_TOP = {
    "embeddings.class_embedding": "class_embedding",
    "embeddings.patch_embedding.weight": "conv1.weight",
    "embeddings.position_embedding.weight": "positional_embedding",
    "pre_layrnorm.weight": "ln_pre.weight",
    "pre_layrnorm.bias": "ln_pre.bias",
    "post_layernorm.weight": "ln_post.weight",
    "post_layernorm.bias": "ln_post.bias",
}
_PER_LAYER = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
    "self_attn.out_proj": "attn.out_proj",
}
_QKV = ("q_proj", "k_proj", "v_proj")


def load_clip_directory(path: Path) -> tuple[nn.Module, dict[str, Any]]:
    """The tower, its projection removed, and its preprocessing in open_clip's terms."""
    config = _vision_config(path)
    tower = _build_tower(path, config)
    tensors = _to_open_clip(_read_weights(path), int(config["num_hidden_layers"]), path)
    expected = {name: tuple(value.shape) for name, value in tower.state_dict().items()}
    check_tensors(_weight_file(path), tensors, expected)
    tower.load_state_dict(tensors)
    return tower, _preprocessing(path, int(config["image_size"]))


def is_clip_directory(path: Path) -> bool:
    try:
        kind = json.loads((path / "config.json").read_text(encoding="utf-8")).get("model_type")
    except (OSError, ValueError):
        return False
    return kind in ("clip", "clip_vision_model")


def _vision_config(path: Path) -> dict[str, Any]:
    """With transformers' defaults filled in: a saved file may leave them out."""
    from transformers import CLIPConfig, CLIPVisionConfig

    raw = json.loads((path / "config.json").read_text(encoding="utf-8"))
    if raw["model_type"] == "clip":
        raw = CLIPConfig(**raw).to_dict()["vision_config"]
    return dict(CLIPVisionConfig(**raw).to_dict())


def _build_tower(path: Path, config: dict[str, Any]) -> nn.Module:
    from open_clip.transformer import LayerNorm, QuickGELU, VisionTransformer

    activations: dict[str, Any] = {"quick_gelu": QuickGELU, "gelu": nn.GELU}
    if config["hidden_act"] not in activations:
        raise UnsupportedModel(
            f"{path}: hidden_act is {config['hidden_act']!r}, expected quick_gelu or gelu"
        )
    tower: nn.Module = VisionTransformer(
        image_size=config["image_size"],
        patch_size=config["patch_size"],
        width=config["hidden_size"],
        layers=config["num_hidden_layers"],
        heads=config["num_attention_heads"],
        mlp_ratio=config["intermediate_size"] / config["hidden_size"],
        act_layer=activations[config["hidden_act"]],
        norm_layer=partial(LayerNorm, eps=config["layer_norm_eps"]),
    )
    tower.register_parameter("proj", None)
    return tower


def _weight_file(path: Path) -> Path:
    file = path / "model.safetensors"
    if not file.is_file():
        raise DamagedFile(file, "the file is missing")
    return file


def _read_weights(path: Path) -> dict[str, Tensor]:
    """Names below ``vision_model.``; a full CLIP's text tower is left out.

    transformers 5 saves a lone vision model without that prefix.
    """
    tensors = read_tensors(_weight_file(path))
    prefix = "vision_model."
    if not any(name.startswith(prefix) for name in tensors):
        prefix = ""
    return {
        name.removeprefix(prefix): value.float()
        for name, value in tensors.items()
        if name.startswith(prefix) and not name.endswith("position_ids")
    }


def _to_open_clip(source: dict[str, Tensor], layers: int, path: Path) -> dict[str, Tensor]:
    import torch

    try:
        tensors = {new: source[old] for old, new in _TOP.items()}
        for i in range(layers):
            old, new = f"encoder.layers.{i}", f"transformer.resblocks.{i}"
            for kind in ("weight", "bias"):
                qkv = [source[f"{old}.self_attn.{part}.{kind}"] for part in _QKV]
                tensors[f"{new}.attn.in_proj_{kind}"] = torch.cat(qkv)
                for name, renamed in _PER_LAYER.items():
                    tensors[f"{new}.{renamed}.{kind}"] = source[f"{old}.{name}.{kind}"]
    except KeyError as error:
        missing = f"tensor {error.args[0]} is missing"
        raise DamagedFile(_weight_file(path), missing) from error
    return tensors


def _preprocessing(path: Path, image_size: int) -> dict[str, Any]:
    file = path / "preprocessor_config.json"
    settings = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    wanted: dict[str, Any] = {
        "size": image_size,
        "interpolation": "bilinear" if settings.get("resample") == 2 else "bicubic",
        "resize_mode": "shortest",
    }
    for old, new in (("image_mean", "mean"), ("image_std", "std")):
        if old in settings:
            wanted[new] = settings[old]
    return wanted
