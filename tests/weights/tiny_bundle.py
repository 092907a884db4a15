"""A whole bundle of tiny random models, written to a directory."""

from pathlib import Path

import torch
from transformers import CLIPVisionConfig, CLIPVisionModel

from fromage_weights.bundle import Bundle, FrozenModel, save_bundle
from fromage_weights.fingerprint import fingerprint
from fromage_weights.mappers import Mappers
from fromage_weights.vision import VisionEncoder
from tests.weights.tiny import language_model, tokenizer

VISION_DIM = 24


def write_bundle(
    path: Path, *, tied: bool = False, context: int = 64, width: int = 32, family: str = "llama"
) -> Bundle:
    """The frozen models lie inside, in ``lm`` and ``vision``."""
    sizes: dict[str, int] = {"hidden_size": width, "max_position_embeddings": context}
    if family == "llama":
        sizes |= {"intermediate_size": 2 * width, "head_dim": width // 4}
    lm = language_model(family, tied=tied, **sizes)
    lm.save_pretrained(path / "lm")
    tokenizer().hf.save_pretrained(path / "lm")
    torch.manual_seed(4)
    tower = CLIPVisionModel(
        CLIPVisionConfig(
            hidden_size=VISION_DIM,
            intermediate_size=48,
            num_hidden_layers=1,
            num_attention_heads=3,
            image_size=32,
            patch_size=16,
        )
    )
    tower.save_pretrained(path / "vision")
    return save_bundle(
        path,
        Mappers(VISION_DIM, width, width, 2, 8, tied=tied),
        name="tiny",
        lm=FrozenModel(id="./lm", hash=fingerprint(lm)),
        vision=FrozenModel(
            id="./vision", hash=VisionEncoder.load(str(path / "vision")).fingerprint
        ),
        stop=("\n",),
    )
