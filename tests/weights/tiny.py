"""Tiny random models of every family, built on the spot."""

from typing import Any

import torch
import transformers
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Split
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from fromage_weights.grounded import GroundedModel
from fromage_weights.language import input_embedding, is_tied, output_head, weight_of
from fromage_weights.mappers import Mappers
from fromage_weights.tokenizer import FromageTokenizer

VOCABULARY = 97
VISION_DIM = 12
_SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "eos_token_id": 1,
    "bos_token_id": 0,
    "pad_token_id": 1,
}
_GROUPED = _SIZES | {"num_key_value_heads": 2, "head_dim": 8}
# OPT with project_in/project_out; Gemma 2 with both soft caps low enough to matter.
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "opt": (
        "OPTConfig",
        _SIZES | {"word_embed_proj_dim": 24, "ffn_dim": 64, "do_layer_norm_before": False},
    ),
    "gpt2": ("GPT2Config", _SIZES),
    "gpt_neox": ("GPTNeoXConfig", _SIZES),
    "llama": ("LlamaConfig", _GROUPED),
    "qwen2": ("Qwen2Config", _SIZES | {"num_key_value_heads": 2}),
    "qwen3": ("Qwen3Config", _GROUPED),
    "gemma": ("GemmaConfig", _GROUPED),
    "gemma2": (
        "Gemma2Config",
        _GROUPED | {"final_logit_softcapping": 1.0, "attn_logit_softcapping": 1.0},
    ),
    "gemma3": ("Gemma3TextConfig", _GROUPED),
    "mistral": ("MistralConfig", _GROUPED),
}


def language_model(family: str, *, tied: bool, **more: Any) -> PreTrainedModel:
    torch.manual_seed(7)
    name, settings = FAMILIES[family]
    config = getattr(transformers, name)(**{**settings, "tie_word_embeddings": tied, **more})
    model: PreTrainedModel = transformers.AutoModelForCausalLM.from_config(  # type: ignore[no-untyped-call]
        config
    )
    with torch.no_grad():
        for weight in model.parameters():  # the usual 0.02 leaves every logit near zero
            weight.mul_(4.0)
    return model


def tokenizer() -> FromageTokenizer:
    """One letter or word, one id; fewer ids than the models have rows."""
    words = ["<s>", "</s>", "<unk>", *"abcdefghijklmnopqrstuvwxyz .,?!'\n"]
    backend = Tokenizer(WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    backend.pre_tokenizer = Split("", "isolated")
    fast = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )
    return FromageTokenizer(fast)


def grounded(
    family: str, *, tied: bool = True, text_emb_layers: tuple[int, ...] = (-1,)
) -> GroundedModel:
    lm = language_model(family, tied=tied)
    assert is_tied(lm) == tied
    return with_mappers(lm, text_emb_layers=text_emb_layers)


def with_mappers(lm: PreTrainedModel, *, text_emb_layers: tuple[int, ...] = (-1,)) -> GroundedModel:
    mappers = Mappers(
        vision_dim=VISION_DIM,
        embed_dim=weight_of(input_embedding(lm)).shape[1],
        hidden_dim=weight_of(output_head(lm)).shape[1],
        n_visual_tokens=2,
        shared_dim=8,
        text_emb_layers=text_emb_layers,
        tied=is_tied(lm),
    )
    return GroundedModel(lm, mappers.requires_grad_(False), tokenizer())
