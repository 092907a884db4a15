"""A whole bundle of tiny random models with room for long replies, and pictures to search."""

import io
import json
from pathlib import Path

import numpy as np
import torch
from fromage_weights.bundle import Bundle, ChatTemplate, FrozenModel, save_bundle
from fromage_weights.fingerprint import fingerprint
from fromage_weights.mappers import Mappers
from fromage_weights.vision import VisionEncoder
from PIL import Image
from transformers import CLIPVisionConfig, CLIPVisionModel, LlamaConfig, LlamaForCausalLM

from tests.weights.tiny import tokenizer

CONTEXT = 4096
VISION_DIM, WIDTH, SHARED_DIM, SOFT_TOKENS = 24, 32, 8, 2
COLOURS = {"red": (220, 30, 30), "green": (30, 200, 40), "blue": (40, 60, 220)}


def write_bundle(path: Path, seed: int = 7) -> Bundle:
    """The replies make no sense. A ``ret_scale_factor`` of 100 brings [RET] within a few tokens."""
    torch.manual_seed(seed)
    lm = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=97,
            hidden_size=WIDTH,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=CONTEXT,
            bos_token_id=0,
            eos_token_id=1,
            pad_token_id=1,
            tie_word_embeddings=False,
        )
    ).eval()
    with torch.no_grad():
        for weight in lm.parameters():  # the usual 0.02 leaves every logit near zero
            weight.mul_(4.0)
    lm.save_pretrained(path / "lm")
    tokenizer().hf.save_pretrained(path / "lm")
    _tower().save_pretrained(path / "vision")
    mappers = Mappers(VISION_DIM, WIDTH, WIDTH, SOFT_TOKENS, SHARED_DIM, tied=False)
    return save_bundle(
        path,
        mappers,
        name="tiny",
        lm=FrozenModel(id="./lm", hash=fingerprint(lm)),
        vision=FrozenModel(id="./vision", hash=_fingerprint(path / "vision")),
        chat_template=ChatTemplate(image="({image}) "),
        stop=("\n",),
    )


def _tower() -> CLIPVisionModel:
    return CLIPVisionModel(
        CLIPVisionConfig(
            hidden_size=VISION_DIM,
            intermediate_size=48,
            num_hidden_layers=1,
            num_attention_heads=3,
            image_size=32,
            patch_size=16,
        )
    )


def _fingerprint(vision: Path) -> str:
    return VisionEncoder.load(str(vision)).fingerprint


def picture(number: int, size: tuple[int, int] = (60, 40)) -> Image.Image:
    """Noise over a colour, another one for every number."""
    rng = np.random.default_rng(number)
    base = np.array(list(COLOURS.values())[number % 3])
    noise = rng.integers(-30, 30, size=(size[1], size[0], 3))
    return Image.fromarray(np.clip(base + noise, 0, 255).astype(np.uint8))


def encoded(image: Image.Image, format: str = "PNG") -> bytes:
    out = io.BytesIO()
    image.save(out, format)
    return out.getvalue()


def write_pictures(folder: Path, count: int) -> None:
    """With metadata, and with one file that is no picture."""
    folder.mkdir()
    lines = []
    for number in range(count):
        name = f"pic {number:02d}.png"
        (folder / name).write_bytes(encoded(picture(number)))
        colour = list(COLOURS)[number % 3]
        lines.append({"file_name": name, "colour": colour, "number": number})
    (folder / "broken.png").write_text("this is text")
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)))
