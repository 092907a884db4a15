"""A whole bundle of tiny random models with room for long replies."""

from pathlib import Path

import torch
from transformers import CLIPVisionConfig, CLIPVisionModel, LlamaConfig, LlamaForCausalLM

from fromage_weights.bundle import Bundle, ChatTemplate, FrozenModel, save_bundle
from fromage_weights.fingerprint import fingerprint
from fromage_weights.mappers import Mappers
from fromage_weights.vision import VisionEncoder
from tests.server.sizes import CONTEXT, SHARED_DIM, SOFT_TOKENS
from tests.weights.tiny import tokenizer

VISION_DIM, WIDTH = 24, 32


def write_bundle(path: Path, seed: int = 7, width: int = WIDTH) -> Bundle:
    """The replies make no sense. A ``ret_scale_factor`` of 100 brings [RET] within a few tokens."""
    torch.manual_seed(seed)
    lm = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=97,
            hidden_size=width,
            intermediate_size=2 * width,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=CONTEXT,
            bos_token_id=0,
            eos_token_id=1,
            pad_token_id=1,
            tie_word_embeddings=False,
        )
    )
    with torch.no_grad():
        for weight in lm.parameters():  # the usual 0.02 leaves every logit near zero
            weight.mul_(4.0)
    lm.save_pretrained(path / "lm")
    tokenizer().hf.save_pretrained(path / "lm")
    _tower().save_pretrained(path / "vision")
    mappers = Mappers(VISION_DIM, width, width, SOFT_TOKENS, SHARED_DIM, tied=False)
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
