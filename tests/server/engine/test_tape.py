"""Passes that were written down bring what the model itself brings, to the bit."""

from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

from fromage_server.engine import Engine, EngineConfig
from fromage_server.engine.kv_cache import PagedCache
from fromage_server.engine.packing import pack_linears
from fromage_server.engine.tape import Tapes, Unrecordable, recorded
from fromage_weights.grounded import ForwardOutput, GroundedModel
from tests.server.engine.driving import answers, reply
from tests.server.engine.test_equals_generate import EVERY_MODEL, expected_of, requests_of
from tests.server.engine.tiny import byte_tokenizer, generate, grounded, text


@pytest.fixture
def compared(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Every pass that is read off is also computed by the model; the sizes that were."""
    found: list[int] = []
    read_off = Tapes.run

    def both(tapes: Tapes, embedded: Tensor, positions: Tensor, cache: PagedCache) -> ForwardOutput:
        if len(embedded) not in tapes.sizes:
            return read_off(tapes, embedded, positions, cache)
        live = tapes._live(cache)(embedded[None], positions[None])  # it writes the same places
        output = read_off(tapes, embedded, positions, cache)
        assert torch.equal(output.logits, live[0])
        assert torch.equal(output.hidden, live[1])
        found.append(len(embedded))
        return output

    monkeypatch.setattr(Tapes, "run", both)
    return found


@EVERY_MODEL
def test_what_is_read_off_is_what_the_model_computes(
    family: str, tied: bool, compared: list[int]
) -> None:
    """Replies join and leave, so that all sizes come up."""
    engine = Engine(grounded(family, tied), EngineConfig(max_batch=4))
    engine.warm_up()
    heard = answers(engine, requests_of(family, tied), steps_between=2)
    assert [h.ids for h in heard] == expected_of(family, tied)
    assert set(compared) == {1, 2, 3, 4}
    engine.check_idle()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_packed_weights_are_read_off_too(dtype: torch.dtype, compared: list[int]) -> None:
    model = GroundedModel(
        _copied(grounded("opt", True).lm).to(dtype),
        grounded("opt", True).mappers,
        byte_tokenizer(),
    )
    pack_linears(model.lm)
    engine = Engine(model, EngineConfig(max_batch=2))
    engine.warm_up()
    requests = [reply(str(i), (text(model, "Is this " * i),), 12) for i in (1, 2)]
    answers(engine, requests)
    assert set(compared) == {2}


def test_a_model_that_looks_at_its_numbers_computes_by_itself(compared: list[int]) -> None:
    """This rotary embedding is another one from some length on."""
    config = transformers.LlamaConfig(
        hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=24, vocab_size=len(byte_tokenizer()), bos_token_id=None,
        eos_token_id=byte_tokenizer().eos_token_id, pad_token_id=None, initializer_range=0.5,
        rope_parameters={"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0},
    )  # fmt: skip
    torch.manual_seed(0)
    lm: Any = transformers.AutoModelForCausalLM.from_config(config)  # type: ignore[no-untyped-call]
    model = GroundedModel(lm, grounded("llama", False).mappers, byte_tokenizer())
    engine = Engine(model, EngineConfig(max_batch=2))
    engine.warm_up()
    prompt = (text(model, "one two"),)
    (heard,) = answers(engine, [reply("a", prompt, 10)])
    with torch.inference_mode():
        assert heard.ids == generate(model, prompt, 10)
    assert compared == []


def _pair(*_: Tensor) -> tuple[Tensor, Tensor]:
    return torch.randn(2, 3), torch.tensor([1, 2])


def test_what_is_written_down_follows_the_inputs() -> None:
    """Changes in place among it, several results of one operation, and parts without an input."""
    weight = torch.randn(4, 3)

    def function(x: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
        y = torch.nn.functional.linear(x, weight * 2) + torch.arange(4)
        y.add_(places[:, None])
        largest, at = y.max(dim=1)
        return largest * torch.ones(2).neg_(), at

    tape = recorded(function, _pair())
    for _ in range(3):
        inputs = _pair()
        for mine, other in zip(tape(*inputs), function(*inputs), strict=True):
            assert torch.equal(mine, other)


def test_what_would_not_follow_them_is_refused() -> None:
    table = torch.zeros(2, 3)

    def by_value(x: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
        return (x if x.sum() > 0 else -x), places

    def by_shape(x: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
        return x[x > 0], places

    def changes(x: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
        return table.add_(x), places

    for function in (by_value, by_shape, changes):
        with pytest.raises(Unrecordable):
            recorded(function, _pair())


def _copied(lm: Any) -> Any:
    other = type(lm)(lm.config)
    other.load_state_dict(lm.state_dict())
    return other
