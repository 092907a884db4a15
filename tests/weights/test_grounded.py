"""The grounded model equals the plain Hugging Face model, for every family and head."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close
from transformers import DynamicCache

from fromage_weights.errors import UnsupportedModel
from fromage_weights.grounded import GroundedModel, ImageSegment, Segment, TextSegment
from fromage_weights.language import input_embedding, output_head, weight_of
from fromage_weights.mappers import Mappers
from tests.weights.tiny import FAMILIES, VISION_DIM, grounded, language_model, tokenizer

_BOTH = pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
_ALL = pytest.mark.parametrize("family", sorted(FAMILIES))


@pytest.fixture(scope="module")
def models() -> dict[tuple[str, bool], GroundedModel]:
    return {(f, tied): grounded(f, tied=tied) for f in FAMILIES for tied in (True, False)}


def _prompt(model: GroundedModel) -> list[Segment]:
    features = torch.linspace(-1, 1, VISION_DIM)
    return [TextSegment((0, 5, 9)), ImageSegment(features), TextSegment((model.ret_token_id, 7))]


@_BOTH
@_ALL
def test_logits_of_embedded_ids(
    models: dict[tuple[str, bool], GroundedModel], family: str, tied: bool
) -> None:
    model = models[family, tied]
    ids = torch.tensor([[0, 8, 3, model.ret_token_id, 11, 4]])
    with torch.inference_mode():
        expected = model.lm(input_ids=ids).logits
        found = model.forward(model.embed([TextSegment(tuple(ids[0].tolist()))])[None])
    assert found.logits.shape == (1, 6, len(model.tokenizer))
    assert_close(found.logits, expected)
    assert float(expected.std()) > 1e-2  # not a comparison of zeros


@_BOTH
@_ALL
def test_hidden_state_is_the_input_of_the_head(
    models: dict[tuple[str, bool], GroundedModel], family: str, tied: bool
) -> None:
    model = models[family, tied]
    with torch.inference_mode():
        output = model.forward(model.embed(_prompt(model))[None])
        logits = output_head(model.lm)(output.hidden[:, :, 0])
    cap = getattr(model.lm.config, "final_logit_softcapping", None)
    assert_close(torch.tanh(logits / cap) * cap if cap else logits, output.logits)


@_BOTH
@_ALL
def test_generate_is_the_same_function(
    models: dict[tuple[str, bool], GroundedModel], family: str, tied: bool
) -> None:
    model = models[family, tied]
    with torch.inference_mode():
        embeds = model.embed(_prompt(model))[None]
        lm: Any = model.lm
        generated = lm.generate(
            inputs_embeds=embeds,
            attention_mask=torch.ones(embeds.shape[:2], dtype=torch.long),
            max_new_tokens=12,
            min_new_tokens=12,
            do_sample=False,
            eos_token_id=None,
        )[0].tolist()
        assert generated == _greedy(model, embeds, 12)


def _greedy(model: GroundedModel, embeds: Tensor, count: int) -> list[int]:
    """With a cache, one token at a time."""
    cache = DynamicCache(config=model.lm.config)
    ids: list[int] = []
    for _ in range(count):
        logits = model.forward(embeds, past_key_values=cache, logits_to_keep=1).logits
        ids.append(int(logits[0, -1].argmax()))
        embeds = model.embed_ids(torch.tensor([[ids[-1]]]))
    return ids


@_BOTH
@_ALL
def test_the_ret_rows_are_the_mappers(
    models: dict[tuple[str, bool], GroundedModel], family: str, tied: bool
) -> None:
    model = models[family, tied]
    row, mappers = model.ret_token_id, model.mappers
    assert torch.equal(weight_of(input_embedding(model.lm))[row], mappers.ret_embedding[0])
    head = mappers.ret_embedding if mappers.ret_head is None else mappers.ret_head
    assert torch.equal(weight_of(output_head(model.lm))[row], head[0])
    assert model.tokenizer.encode("[RET]") == (row,)


def test_a_padded_batch_equals_each_sequence_alone() -> None:
    model = grounded("llama")
    prompts = [model.embed(_prompt(model)), model.embed([TextSegment((0, 4))])]
    width = max(len(prompt) for prompt in prompts)
    batch = torch.stack([torch.nn.functional.pad(p, (0, 0, width - len(p), 0)) for p in prompts])
    mask = torch.stack([(torch.arange(width) >= width - len(p)).long() for p in prompts])
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    with torch.inference_mode():
        together = model.forward(batch, mask, positions, logits_to_keep=1)
        for i, prompt in enumerate(prompts):
            alone = model.forward(prompt[None], logits_to_keep=1)
            assert_close(together.logits[i], alone.logits[0], atol=1e-5, rtol=1e-5)
            assert_close(together.hidden[i], alone.hidden[0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("keep", [0, 2, torch.tensor([1, 4])], ids=["all", "last", "chosen"])
def test_kept_positions(keep: int | Tensor) -> None:
    model = grounded("llama", text_emb_layers=(-1, 1, 0))
    with torch.inference_mode():
        embeds = model.embed(_prompt(model))[None]
        every = model.forward(embeds)
        kept = model.forward(embeds, logits_to_keep=keep)
    chosen = slice(-keep, None) if isinstance(keep, int) else keep
    assert_close(kept.logits, every.logits[:, chosen])
    assert_close(kept.hidden, every.hidden[:, chosen])


def test_inner_layers_come_from_hidden_states() -> None:
    model = grounded("gpt2", text_emb_layers=(-1, -2, 0, 2))
    with torch.inference_mode():
        embeds = model.embed(_prompt(model))[None]
        hidden = model.forward(embeds).hidden
        states = model.lm(inputs_embeds=embeds, output_hidden_states=True).hidden_states
    expected = torch.stack([states[2], states[1], states[0], states[2]], dim=-2)
    assert_close(hidden, expected)


def test_soft_tokens_take_their_positions() -> None:
    model = grounded("llama")
    image = ImageSegment(torch.linspace(-1, 1, VISION_DIM))
    embeds = model.embed([TextSegment((3,)), image, TextSegment((4, 5))])
    assert embeds.shape == (3 + model.n_visual_tokens, 32)
    assert_close(embeds[1:3], model.mappers.soft_tokens(image.features[None])[0])
    assert model.embed([]).shape == (0, 32)


def test_bfloat16_keeps_the_mappers_in_float32() -> None:
    lm = language_model("llama", tied=True).bfloat16()
    model = GroundedModel(lm, Mappers(VISION_DIM, 32, 32, 2, 8).requires_grad_(False), tokenizer())
    with torch.inference_mode():
        embeds = model.embed(_prompt(model))[None]
        output = model.forward(embeds)
        query = model.mappers.query_embeddings(output.hidden[0])
    assert embeds.dtype == output.hidden.dtype == torch.bfloat16
    assert output.logits.dtype == query.dtype == torch.float32
    assert_close(query.norm(dim=-1), torch.ones(len(query)))


def test_gemma_embeddings_are_scaled_and_the_written_row_is_not() -> None:
    model = grounded("gemma")
    row = torch.tensor([model.ret_token_id])
    assert_close(model.embed_ids(row), model.mappers.ret_embedding * 32**0.5)


def test_a_larger_vocabulary_gets_rows_that_do_not_vary() -> None:
    lm = language_model("llama", tied=False)
    enough = tokenizer()
    enough.hf.add_tokens([f"<extra {i}>" for i in range(100)])
    model = GroundedModel(lm, Mappers(VISION_DIM, 32, 32, 2, 8, tied=False), enough)
    matrix = weight_of(input_embedding(model.lm))
    assert matrix.shape[0] == len(enough) == model.vocab_size > 97
    assert not matrix[97:].any()
    assert not matrix.requires_grad


def test_configuration() -> None:
    model = grounded("gpt2")
    assert model.max_context == 64
    assert model.eos_token_ids == (1,)
    assert model.image_token_id is None
    assert model.config.text_emb_layers == (-1,)


def test_inner_layers_of_another_width_are_refused() -> None:
    with pytest.raises(UnsupportedModel, match="have 32 numbers, its head reads 24"):
        grounded("opt", text_emb_layers=(-1, 1))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"embed_dim": 31}, "embed_dim=31"),
        ({"hidden_dim": 31}, "hidden_dim=31"),
        ({"tied": False}, "tied=False"),
        ({"text_emb_layers": (5,)}, "text_emb_layers has 5"),
    ],
)
def test_mappers_of_another_model_are_refused(change: dict[str, object], named: str) -> None:
    settings: dict[str, object] = {
        "vision_dim": VISION_DIM,
        "embed_dim": 32,
        "hidden_dim": 32,
        "n_visual_tokens": 2,
        "shared_dim": 8,
    }
    mappers = Mappers(**(settings | change))  # type: ignore[arg-type]
    with pytest.raises(UnsupportedModel, match=named):
        GroundedModel(language_model("llama", tied=True), mappers, tokenizer())
