"""Models of known shapes with random weights, made on the spot: speed does not depend on values."""

from __future__ import annotations

import string
from collections.abc import Callable
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM, PretrainedConfig, PreTrainedTokenizerFast

from fromage_weights.grounded import GroundedModel
from fromage_weights.mappers import Mappers
from fromage_weights.tokenizer import FromageTokenizer

VISION_DIM = 512
SHARED_DIM = 256
SOFT_TOKENS = 4
_END = "</s>"


def _opt(hidden: int, layers: int, heads: int) -> Callable[[int], PretrainedConfig]:
    return lambda vocabulary: transformers.OPTConfig(
        hidden_size=hidden,
        word_embed_proj_dim=hidden,
        ffn_dim=4 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        vocab_size=vocabulary,
        max_position_embeddings=2048,
        init_std=0.02,
    )


SHAPES: dict[str, tuple[int, Callable[[int], PretrainedConfig]]] = {
    "demo": (
        2_560,
        lambda vocabulary: transformers.GPTNeoXConfig(
            hidden_size=320,
            intermediate_size=1280,
            num_hidden_layers=5,
            num_attention_heads=5,
            vocab_size=vocabulary,
            max_position_embeddings=2048,  # the demo's own is 1,024: room for the long prompts
        ),
    ),
    "opt-125m": (50_272, _opt(768, 12, 12)),
    "opt-1.3b": (50_272, _opt(2048, 24, 32)),
    "opt-6.7b": (50_272, _opt(4096, 32, 32)),
    "llama-8b": (
        128_256,
        lambda vocabulary: transformers.LlamaConfig(
            hidden_size=4096,
            intermediate_size=14336,
            num_hidden_layers=32,
            num_attention_heads=32,
            num_key_value_heads=8,
            vocab_size=vocabulary,
            max_position_embeddings=8192,
        ),
    ),
}


def tokenizer_of(size: int) -> FromageTokenizer:
    """Bytes, then words of up to four letters, a capital first, so that every id is readable text
    and is one token again when a chat sends it back. Prompts of small letters up to h are bytes."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    words, merges = [*string.ascii_uppercase], []
    for _ in range(3):
        longer = [(word, letter) for word in words for letter in string.ascii_lowercase[8:]]
        merges += longer
        words = [word + letter for word, letter in longer]
    merges = merges[: size - 2 - len(alphabet)]
    pieces = [*alphabet, *(word + letter for word, letter in merges)]
    core = Tokenizer(models.BPE({piece: i for i, piece in enumerate(pieces)}, merges))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    hf = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=core, eos_token=_END, pad_token=_END
    )
    return FromageTokenizer(hf)


def build(shape: str, dtype: torch.dtype, device: str = "cpu") -> GroundedModel:
    """The grounded model, in evaluation mode."""
    size, config_of = SHAPES[shape]
    torch.manual_seed(0)
    tokenizer = tokenizer_of(size)
    config = config_of(len(tokenizer))
    config.eos_token_id = tokenizer.eos_token_id
    with torch.device(device):
        lm: Any = AutoModelForCausalLM.from_config(config, dtype=dtype)  # type: ignore[no-untyped-call]
    width = config.hidden_size
    tied = bool(config.tie_word_embeddings)
    mappers = Mappers(VISION_DIM, width, width, SOFT_TOKENS, SHARED_DIM, tied=tied)
    return GroundedModel(lm, mappers, tokenizer)
