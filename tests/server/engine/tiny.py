"""Tiny grounded models with random weights, one per language model family."""

import itertools
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from fromage_weights.grounded import GroundedModel, ImageSegment, Segment, TextSegment
from fromage_weights.language import is_tied
from fromage_weights.mappers import Mappers
from fromage_weights.tokenizer import FromageTokenizer

VISION_DIM = 12
CONTEXT = 160
EOS = "</s>"

_GQA: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": CONTEXT,
}
_GEMMA: dict[str, Any] = _GQA | {"head_dim": 8}
_ALTERNATING = ["sliding_attention", "full_attention", "sliding_attention"]
_FAMILIES: dict[str, Callable[..., Any]] = {
    "opt": lambda **k: transformers.OPTConfig(
        hidden_size=32,
        word_embed_proj_dim=32,
        ffn_dim=48,
        num_hidden_layers=3,
        num_attention_heads=4,
        max_position_embeddings=CONTEXT,
        init_std=k.pop("initializer_range"),
        **k,
    ),
    "opt-350m": lambda **k: transformers.OPTConfig(
        hidden_size=32,
        word_embed_proj_dim=20,
        do_layer_norm_before=False,
        ffn_dim=48,
        num_hidden_layers=3,
        num_attention_heads=4,
        max_position_embeddings=CONTEXT,
        init_std=k.pop("initializer_range"),
        **k,
    ),
    "gpt2": lambda **k: transformers.GPT2Config(
        n_embd=32, n_layer=3, n_head=4, n_positions=CONTEXT, **k
    ),
    "gpt-neox": lambda **k: transformers.GPTNeoXConfig(
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=4,
        max_position_embeddings=CONTEXT,
        **k,
    ),
    "llama": lambda **k: transformers.LlamaConfig(**_GQA, **k),
    "qwen2": lambda **k: transformers.Qwen2Config(**_GQA, **k),
    "qwen3": lambda **k: transformers.Qwen3Config(**_GQA, head_dim=8, **k),
    "mistral": lambda **k: transformers.MistralConfig(**_GQA, sliding_window=8, **k),
    "gemma": lambda **k: transformers.GemmaConfig(**_GEMMA, **k),
    "gemma2": lambda **k: transformers.Gemma2Config(
        **_GEMMA, sliding_window=8, layer_types=_ALTERNATING, query_pre_attn_scalar=8, **k
    ),
    "gemma3": lambda **k: transformers.Gemma3TextConfig(
        **_GEMMA, sliding_window=8, layer_types=_ALTERNATING, query_pre_attn_scalar=8, **k
    ),
}
FAMILIES = tuple(_FAMILIES)


def byte_tokenizer() -> FromageTokenizer:
    """One token per byte, so that characters span tokens; then `</s>` and [RET]."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    core = Tokenizer(models.BPE({char: i for i, char in enumerate(alphabet)}, []))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    hf = transformers.PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=core, eos_token=EOS
    )
    return FromageTokenizer(hf)


@cache
def grounded(family: str, tied: bool, seed: int = 0) -> GroundedModel:
    """Weights are wide enough that greedy output wanders instead of repeating one token."""
    torch.manual_seed(seed)
    tokenizer = byte_tokenizer()
    config = _FAMILIES[family](
        vocab_size=len(tokenizer),
        tie_word_embeddings=tied,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=None,
        initializer_range=0.5,
    )
    lm: Any = transformers.AutoModelForCausalLM.from_config(config)  # type: ignore[no-untyped-call]
    if tied and family in ("gemma2", "gemma3"):
        # Their normalised residuals would drown in the scaled embedding, and every token repeat.
        lm.get_input_embeddings().weight.data *= 0.2
    mappers = Mappers(
        VISION_DIM,
        embed_dim=lm.get_input_embeddings().weight.shape[1],
        hidden_dim=lm.get_output_embeddings().weight.shape[1],
        n_visual_tokens=2,
        shared_dim=6,
        tied=is_tied(lm),
    )
    # [RET] as likely as any other token.
    for row in (mappers.ret_embedding, mappers.ret_head):
        if row is not None:
            row.data *= lm.get_input_embeddings().weight.std() / row.std()
    return GroundedModel(lm, mappers, tokenizer)


def text(model: GroundedModel, words: str) -> TextSegment:
    return TextSegment(model.tokenizer.encode(words))


def image(seed: int) -> ImageSegment:
    return ImageSegment(torch.randn(VISION_DIM, generator=torch.Generator().manual_seed(seed)))


def generate(model: GroundedModel, segments: tuple[Segment, ...], max_tokens: int) -> list[int]:
    """Greedy ids by transformers' own loop."""
    embedded = model.embed(segments)[None]
    lm: Any = model.lm
    ids = lm.generate(
        inputs_embeds=embedded,
        attention_mask=torch.ones(embedded.shape[:2], dtype=torch.long),
        max_new_tokens=max_tokens,
        do_sample=False,
        pad_token_id=0,
    )
    return [int(token) for token in ids[0]]


def chain(reply_to: dict[str, str]) -> GroundedModel:
    """A model that says what it is told: after a prompt that ends in the key's byte come the
    value's bytes, one after the other (so no byte may have two successors), then `</s>`.
    In the values `◆` stands for [RET]."""
    tokenizer = byte_tokenizer()
    size = len(tokenizer) + 2
    config = transformers.LlamaConfig(
        **_GQA | {"hidden_size": size, "head_dim": 8, "num_hidden_layers": 1},
        vocab_size=len(tokenizer),
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=None,
    )
    lm: Any = transformers.AutoModelForCausalLM.from_config(config)  # type: ignore[no-untyped-call]
    for parameter in lm.model.layers.parameters():
        parameter.data.zero_()  # nothing but the residual stream is left
    embedding = torch.eye(len(tokenizer), size)
    head = torch.zeros(len(tokenizer), size)
    head[tokenizer.eos_token_id] = 0.5 * torch.ones(size)
    for token, successor in _successors(tokenizer, reply_to).items():
        head[successor, token] = 1.0
    lm.get_input_embeddings().weight.data = embedding
    lm.get_output_embeddings().weight.data = head
    mappers = Mappers(VISION_DIM, size, size, n_visual_tokens=2, shared_dim=6, tied=False)
    ret = tokenizer.ret_token_id
    mappers.ret_embedding.data = embedding[ret : ret + 1]
    assert mappers.ret_head is not None
    mappers.ret_head.data = head[ret : ret + 1]
    return GroundedModel(lm, mappers, tokenizer)


def _successors(tokenizer: FromageTokenizer, reply_to: dict[str, str]) -> dict[int, int]:
    found: dict[int, int] = {}
    for prompt, said in reply_to.items():
        ids = tokenizer.encode((prompt[-1] + said).replace("◆", tokenizer.ret_token))
        for token, successor in itertools.pairwise(ids):
            assert found.setdefault(token, successor) == successor, (prompt, token)
    return found
