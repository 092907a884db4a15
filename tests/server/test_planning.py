"""What would go where, before anything is loaded."""

from pathlib import Path

import pytest
import torch

from fromage_server import planning
from fromage_server.cli import main
from fromage_server.engine import Engine, EngineConfig
from fromage_server.planning import make_plan
from fromage_server.settings import Settings
from fromage_weights.loading import load_grounded_model
from tests.server.tiny import write_bundle


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


def test_the_command_prints_it_and_loads_nothing(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fromage_weights.loading.load_language_model", None)
    assert main(["serve", "--plan", "--device", "cpu", "--kv-cache-bytes", "50MiB"]) == 0
    told = capsys.readouterr().out
    assert "GPTNeoXForCausalLM, 7.8 M parameters, float32" in told
    assert "4,096 tokens" in told
    assert told.endswith("It fits.\n")


@pytest.mark.parametrize(
    ("free", "remedy"),
    [
        ((1 << 30) + (180 << 20), "--kv-cache-bytes"),
        ((1 << 30) + (30 << 20), "--dtype bfloat16 saves"),
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
