"""What would go where, before anything is loaded."""

import copy
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from fromage_server import planning
from fromage_server.cli import main
from fromage_server.engine import Engine, EngineConfig, greedy_head
from fromage_server.engine.packing import second_layout_bytes
from fromage_server.planning import make_plan
from fromage_server.settings import Settings
from fromage_weights.loading import load_grounded_model
from fromage_weights.quantization import Quantization, quantized_layers
from fromage_weights.sizes import language_model_outline
from tests.benchmarks.shapes import SHAPES
from tests.conftest import ROOT
from tests.server.engine.tiny import grounded
from tests.server.tiny import write_bundle
from tests.weights.test_quantization import held

RUNNING = planning.RUNNING["cpu"]


def test_the_plan_is_what_the_engine_takes() -> None:
    settings = Settings(device="cpu", max_batch=3, max_context=256)
    plan = {item.name: item.bytes for item in make_plan(settings).items}
    loaded = load_grounded_model("demo", device="cpu")
    engine = Engine(loaded.model, EngineConfig(max_batch=3, max_context=256))
    assert plan["keys and values"] == engine.stats().cache_bytes
    # [RET]'s row is not in the checkpoint.
    parameters = sum(p.numel() for p in loaded.model.lm.parameters())
    assert 0 <= 4 * parameters - plan["language model"] <= 4 * 8 * loaded.model.mappers.embed_dim
    assert loaded.vision is not None
    tower = sum(p.numel() for p in loaded.vision.tower.parameters())
    assert plan["vision encoder"] >= 4 * tower


@pytest.mark.parametrize("tied", [True, False])
def test_a_second_layout_is_planned_where_it_may_be_kept(
    tied: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the byte; it makes nothing not fit."""
    lm: Any = copy.deepcopy(grounded("llama", tied).lm)
    linear = sum(p.nbytes for n, p in lm.named_parameters() if "proj" in n or "lm_head" in n)
    assert second_layout_bytes(lm, torch.float32, linear) == linear
    assert second_layout_bytes(lm, torch.float32, linear - 1) == 0
    assert second_layout_bytes(lm, torch.bfloat16, linear // 2) in (0, linear // 2)
    monkeypatch.setattr(greedy_head, "_WORTH_IT", 0)
    head = lm.get_output_embeddings()
    possible = greedy_head.is_possible(torch.float32)  # with a compiler
    greedy = greedy_head.bytes_beside(*head.weight.shape) * possible
    assert second_layout_bytes(lm, torch.float32, linear + greedy) == linear + greedy
    assert second_layout_bytes(lm, torch.float32, linear + greedy - 1) == linear
    assert second_layout_bytes(lm, torch.float32, linear - 1) == greedy * tied
    free = RUNNING + (160 << 20)
    monkeypatch.setattr(planning, "free_bytes", lambda device: free)
    plan = make_plan(Settings(device="cpu", dtype="float32"))
    assert plan.bytes_of("for few rows") > 0
    assert plan.fits
    monkeypatch.setattr(planning, "free_bytes", lambda device: 130 << 20)
    plan = make_plan(Settings(device="cpu", dtype="float32"))
    assert not [item for item in plan.items if item.name == "for few rows"]


def test_the_command_prints_it_and_loads_nothing(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fromage_weights.loading.load_language_model", None)
    assert main(["serve", "--plan", "--device", "cpu", "--kv-cache-bytes", "50MiB"]) == 0
    told = capsys.readouterr().out
    assert "GPTNeoXForCausalLM, 7.8 M parameters, float32" in told
    assert "4,096 tokens" in told
    assert "It fits." in told.splitlines()


@pytest.mark.parametrize(
    ("free", "remedy"),
    [
        (RUNNING + (180 << 20), "--kv-cache-bytes"),
        (RUNNING + (30 << 20), "--dtype bfloat16 saves"),
        (RUNNING + (30 << 20), "--quantize int4 saves"),
        (RUNNING - 1, "no option makes it fit"),
    ],
)
def test_what_would_make_it_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: int, remedy: str
) -> None:
    monkeypatch.setattr(planning, "free_bytes", lambda device: free)
    plan = make_plan(Settings(device="cpu", kv_cache_bytes=200 << 20))  # type: ignore[arg-type]
    assert not plan.fits
    assert any(remedy in line for line in plan.remedies)
    assert "It does not fit" in plan.text()


def test_a_bundle_of_any_family(tmp_path: Path) -> None:
    write_bundle(tmp_path)
    plan = make_plan(Settings(bundle=str(tmp_path), device="cpu", dtype="float32"))
    assert plan.fits
    assert plan.items[0].what.startswith("LlamaForCausalLM")
    assert torch.get_default_device().type == "cpu"


@pytest.mark.parametrize("quantize", ["int8", "int4"])
def test_quantized_weights_are_what_is_loaded(tmp_path: Path, quantize: Quantization) -> None:
    pytest.importorskip("torchao")
    pytest.importorskip("bitsandbytes")
    write_bundle(tmp_path, width=64)
    settings = Settings(bundle=str(tmp_path), device="cpu", quantize=quantize)
    plan = make_plan(settings)
    assert f"{quantize} and float32" in plan.items[0].what
    lm = load_grounded_model(tmp_path, device="cpu", quantize=quantize, vision=False).model.lm
    outline = language_model_outline(str(tmp_path / "lm"))
    loaded = sum(held(lm, layer) for layer in quantized_layers(outline, quantize))
    loaded += sum(p.nbytes for p in lm.parameters() if type(p) is torch.nn.Parameter)
    # The tokenizer has fewer tokens than the checkpoint rows, and [RET].
    assert 0 <= plan.items[0].bytes - loaded <= 2 * 4 * 64 * 97


def opt_6_7b(path: Path) -> Path:
    """A bundle whose language model is there in outline only."""
    bundle = write_bundle(path)
    config = SHAPES["opt-6.7b"][1](SHAPES["opt-6.7b"][0])
    shutil.rmtree(path / "lm")
    config.architectures = ["OPTForCausalLM"]
    config.save_pretrained(path / "lm")
    tower = bundle.config.vision.model_copy(update={"id": "ViT-L-14-quickgelu/openai", "files": {}})
    changed = bundle.config.model_copy(update={"vision": tower})
    (path / "bundle.json").write_text(changed.model_dump_json())
    return path


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Pretends to have a card with so many GiB free."""
    monkeypatch.setattr(planning, "choose_device", lambda name: torch.device("cuda"))

    def card(free: float) -> None:
        monkeypatch.setattr(planning, "free_bytes", lambda device: int(free * (1 << 30)))

    return card


def test_the_published_model_on_a_card_with_12_gib(
    tmp_path: Path, gpu: Callable[[float], None]
) -> None:
    settings = Settings(bundle=str(opt_6_7b(tmp_path)), dtype="bfloat16", max_context=2048)
    gpu(11.5)
    whole = make_plan(settings)
    assert not whole.fits
    told = whole.text()
    assert re.search(r"--quantize int8 saves 6\.\d GiB and makes it fit", told)
    assert re.search(r"--quantize int4 saves 8\.\d GiB and makes it fit", told)
    quantized = [make_plan(settings.model_copy(update={"quantize": q})) for q in ("int8", "int4")]
    for plan in quantized:
        assert plan.fits
        assert plan.streams >= 1
        assert plan.remedies == ()
    gpu(6)
    small = make_plan(settings)
    assert "no option makes it fit" in small.text()
    assert "--quantize int4 saves" in small.text()


def test_divided_among_gpus(
    tmp_path: Path, gpu: Callable[[float], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings(bundle=str(opt_6_7b(tmp_path)), dtype="bfloat16", max_context=2048)
    gpu(12)
    monkeypatch.setattr(planning, "device_count", lambda: 3)
    whole = make_plan(settings)
    assert "--tensor-parallel 2 makes it fit, with as much free on each GPU" in whole.remedies
    half = make_plan(settings.model_copy(update={"tensor_parallel": 2}))
    assert half.fits
    assert "3.4 B of 6.7 B parameters, bfloat16" in half.items[0].what
    assert "free on cuda, each of 2" in half.text()
    # All but embeddings and norms is halved.
    kept = 2 * (50272 + 2050) * 4096
    assert 2 * half.items[0].bytes - whole.items[0].bytes == pytest.approx(kept, rel=0.01)
    gpu(4)
    assert "no option makes it fit" in make_plan(settings).text()


def test_the_documentation_says_what_the_plan_says(
    tmp_path: Path, gpu: Callable[[float], None]
) -> None:
    gpu(24)
    plan = make_plan(Settings(bundle=str(opt_6_7b(tmp_path)), dtype="bfloat16"))
    page = (ROOT / "docs" / "deployment.md").read_text()
    for name, least in plan.alternatives:
        assert f"| {name.replace(' and bfloat16', '')} | {least / (1 << 30):.1f} GiB |" in page
