"""The tower's shape, its files, and pixels as it takes them."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fromage_weights.demo import tower_text

IMAGE_SIZE = 60
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
MODEL_CONFIG: dict[str, Any] = {
    "embed_dim": 1024,
    "vision_cfg": {
        "image_size": IMAGE_SIZE,
        "patch_size": 10,
        "width": 256,
        "layers": 4,
        "head_width": 64,
        "attentional_pool": True,
        "attn_pooler_queries": 1,
        "attn_pooler_heads": 16,
    },
    "text_cfg": {
        "context_length": tower_text.CONTEXT_LENGTH,
        "vocab_size": len(tower_text.vocabulary()),
        "width": 128,
        "heads": 2,
        "layers": 2,
    },
}
CONFIG_NAME = "open_clip_config.json"
WEIGHTS_NAME = "open_clip_model.safetensors"


def build_tower() -> nn.Module:
    import open_clip

    model: nn.Module = open_clip.CLIP(**MODEL_CONFIG)
    return model


def to_pixels(images: NDArray[np.uint8], device: torch.device | str = "cpu") -> Tensor:
    """(B, S, S, 3) uint8 to the normalised (B, 3, S, S) float32 the tower takes, on `device`."""
    return normalised(torch.from_numpy(images).to(device))


def normalised(images: Tensor) -> Tensor:
    """The same of a tensor, where it is."""
    mean, std = _statistics(images.device)
    return (images.permute(0, 3, 1, 2).float() / 255 - mean) / std


@cache  # a recorded step copies nothing from the CPU
def _statistics(device: torch.device) -> tuple[Tensor, Tensor]:
    mean, std = (torch.tensor(of, device=device).view(3, 1, 1) for of in (MEAN, STD))
    return mean, std


def save_tower(model: nn.Module, directory: Path) -> None:
    """Write `directory` in open_clip's local-dir form, weights in bfloat16."""
    from safetensors.torch import save_file

    directory.mkdir(parents=True, exist_ok=True)
    weights = {k: v.to(torch.bfloat16).contiguous() for k, v in model.state_dict().items()}
    save_file(weights, directory / WEIGHTS_NAME)
    preprocess = {"mean": MEAN, "std": STD, "interpolation": "bicubic", "resize_mode": "shortest"}
    config = {"model_cfg": MODEL_CONFIG, "preprocess_cfg": preprocess}
    (directory / CONFIG_NAME).write_text(json.dumps(config, indent=2) + "\n", "utf-8")


def load_tower(directory: Path) -> nn.Module:
    """The whole tower (both sides), float32, frozen."""
    import open_clip

    model: nn.Module = open_clip.create_model(f"local-dir:{directory}")
    return model.requires_grad_(False).eval()
