"""Passes that were written down bring what the model itself brings, to the bit."""

from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

from fromage_server.engine import Engine, EngineConfig, layouts, packing
from fromage_server.engine.kv_cache import PagedCache
from fromage_server.engine.packing import pack_linears
from fromage_server.engine.shorter import direct
from fromage_server.engine.tape import Headless, Pass, Tapes, Unrecordable, written
from fromage_weights.grounded import ForwardOutput, GroundedModel
from fromage_weights.language import output_head
from tests.server.engine.driving import answers, reply
from tests.server.engine.test_equals_generate import EVERY_MODEL, expected_of, requests_of
from tests.server.engine.tiny import byte_tokenizer, generate, grounded, text


@pytest.fixture
def compared(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Every pass that is read off is also computed by the model; the sizes that were."""
    found: list[int] = []
    read_off = Tapes.run

    def both(
        tapes: Tapes, embedded: Tensor, positions: Tensor, cache: PagedCache
    ) -> ForwardOutput | Headless:
        if len(embedded) not in tapes.sizes:
            return read_off(tapes, embedded, positions, cache)
        # It writes the same places.
        live = tapes._forward(embedded[None], positions[None], cache)
        output = read_off(tapes, embedded, positions, cache)
        assert torch.equal(logits_of(tapes, output), live.logits)
        assert torch.equal(output.hidden, live.hidden)
        found.append(len(embedded))
        return output

    monkeypatch.setattr(Tapes, "run", both)
    return found


def logits_of(tapes: Tapes, output: ForwardOutput | Headless) -> Tensor:
    if isinstance(output, ForwardOutput):
        return output.logits
    logits: Tensor = output_head(tapes._model.lm)(output.last).float()
    return logits


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
    assert (tapes_of(engine).head is None) == (family == "gemma2")  # it caps its logits
    engine.check_idle()


def packed_opt(dtype: torch.dtype) -> GroundedModel:
    """As a server with memory to spare prepares it."""
    lm, mappers = _copied(grounded("opt", True).lm).to(dtype), grounded("opt", True).mappers
    pack_linears(lm, spare=1 << 30)
    return GroundedModel(lm, mappers, byte_tokenizer())


@pytest.mark.parametrize("layout", [layouts.as_stored, layouts.onednn, layouts.in_panels])
def test_passes_end_before_a_head_in_any_layout(
    layout: layouts.Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packing, "fastest", lambda *_: layout)
    monkeypatch.setattr(packing, "_most_rows", lambda *_: 0)
    engine = Engine(packed_opt(torch.float32), EngineConfig(max_batch=2))
    engine.warm_up()
    assert tapes_of(engine).head is not None
    heard = answers(engine, requests_of("opt", True), steps_between=2)
    assert [h.ids for h in heard] == expected_of("opt", True)


def check_against_generate(lm: Any) -> Engine:
    """An engine that was warmed up answers as ``generate()`` does."""
    model = GroundedModel(lm.eval(), grounded("llama", False).mappers, byte_tokenizer())
    engine = Engine(model, EngineConfig(max_batch=2))
    engine.warm_up()
    prompt = (text(model, "one two"),)
    (heard,) = answers(engine, [reply("a", prompt, 10)])
    with torch.inference_mode():
        assert heard.ids == generate(model, prompt, 10)
    return engine


def tapes_of(engine: Engine) -> Tapes:
    tapes = engine._runner._tapes
    assert tapes is not None
    return tapes


SHAPE: dict[str, Any] = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "max_position_embeddings": 128, "vocab_size": len(byte_tokenizer()), "bos_token_id": None,
    "eos_token_id": byte_tokenizer().eos_token_id, "pad_token_id": 0,
}  # fmt: skip
CHANGED_LOGITS = {
    "scaled": (transformers.GraniteConfig, {"logits_scaling": 4.0}),
    "capped": (
        transformers.Gemma2Config,
        {"final_logit_softcapping": 30.0, "num_key_value_heads": 2, "head_dim": 8},
    ),
}


@pytest.mark.parametrize("name", CHANGED_LOGITS)
def test_a_model_that_changes_its_logits_is_recorded_to_its_end(
    name: str, compared: list[int]
) -> None:
    """Token 0, which is used while recording, is zero in these models, and so are its logits."""
    kind, extra = CHANGED_LOGITS[name]
    config = kind(**SHAPE, **extra, tie_word_embeddings=False)
    torch.manual_seed(0)
    lm: Any = transformers.AutoModelForCausalLM.from_config(config)  # type: ignore[no-untyped-call]
    with torch.no_grad():
        lm.get_input_embeddings().weight[0] = 0
    engine = check_against_generate(lm)
    assert compared
    assert tapes_of(engine).head is None


@pytest.mark.parametrize("streams", [1, 2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_packed_weights_are_read_off_too(
    dtype: torch.dtype, streams: int, compared: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And few rows by a kernel of our own."""
    monkeypatch.setattr(packing, "_most_rows", lambda few, layers: 1)
    model = packed_opt(dtype)
    engine = Engine(model, EngineConfig(max_batch=streams))
    engine.warm_up()
    requests = [reply(str(i), (text(model, "Is this " * (1 + i)),), 12) for i in range(streams)]
    answers(engine, requests)
    assert set(compared) == {streams}


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
    check_against_generate(lm)
    assert compared == []


def _pair(*_: Tensor) -> tuple[Tensor, Tensor]:
    return torch.randn(2, 3), torch.tensor([1, 2])


def recorded(function: Pass) -> Pass:
    inputs = _pair()
    with written(inputs) as tape:
        outputs = function(*inputs)
    return tape.read_off(outputs)


def check_recorded(function: Pass) -> None:
    """Other inputs than those it was recorded with."""
    tape = recorded(function)
    for _ in range(3):
        inputs = _pair()
        for mine, other in zip(tape(*inputs), function(*inputs), strict=True):
            assert torch.equal(mine, other)


def test_what_is_written_down_follows_the_inputs() -> None:
    """Changes in place among it, several results of one operation, and parts without an input."""
    weight = torch.randn(4, 3)

    def function(x: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
        y = torch.nn.functional.linear(x, weight * 2) + torch.arange(4)
        y.add_(places[:, None])
        largest, at = y.max(dim=1)
        return largest * torch.ones(2).neg_(), at

    check_recorded(function)


def test_what_changes_nothing_is_left_out() -> None:
    """Views of views, the same one twice, and one that is back where it began; not a view of what
    is turned round, nor what is changed in place."""

    def function(x: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
        rows = x.view(3, 2).view(6)
        again = x.view(6).view(2, 3)
        turned = x.t().reshape(6).view(3, 2).view(2, 3)
        changed = (again + turned).view(6)
        changed.add_(rows)
        return changed.view(2, 3) + x.view(6).view(2, 3), places.view(1, 2).view(2)

    check_recorded(function)


def test_calls_are_those_that_python_makes() -> None:
    """Where torch has the same operation by that name, and takes the arguments as they are."""
    aten, x = torch.ops.aten, torch.randn(2, 3)
    weight = torch.randn(4, 3)
    for operation, args, kwargs in (
        (aten.addmm.default, (torch.zeros(4), x, weight.t()), {}),
        (aten.add.Tensor, (x, x), {"alpha": 2}),
        (aten.native_layer_norm.default, (x, [3], None, None, 1e-5), {}),
        (aten.mul.Tensor, (x, 0.5), {}),
        (aten.silu.default, (x,), {}),
    ):
        called = direct(operation, args, kwargs)
        assert called is not operation
        assert torch.equal(
            torch.utils._pytree.tree_leaves(called(*args, **kwargs))[0],
            torch.utils._pytree.tree_leaves(operation(*args, **kwargs))[0],
        )
    for kept in ((aten.view.default, (x, [6])), (aten.add_.Tensor, (x, x))):
        assert direct(kept[0], kept[1], {}) is kept[0]
    # By its name Python asks for another operation, add.Tensor.
    assert direct(aten.add.Scalar, (x, 2), {}) is aten.add.Scalar
    assert direct(aten.max.dim, (x, 1), {}) in (torch.max, torch.Tensor.max)
    assert direct(aten.sum.default, (x,), {}) is not aten.sum.default


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
            recorded(function)


def _copied(lm: Any) -> Any:
    other = type(lm)(lm.config)
    other.load_state_dict(lm.state_dict())
    return other
