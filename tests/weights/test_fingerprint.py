"""One hash per model, whatever it was stored and loaded as."""

from pathlib import Path

import pytest
import torch

from fromage_weights.fingerprint import fingerprint
from fromage_weights.language import load_language_model
from tests.weights.tiny import language_model


@pytest.mark.parametrize("tied", [True, False])
def test_formats_shards_and_dtypes_agree(tmp_path: Path, tied: bool) -> None:
    model = language_model("llama", tied=tied)
    expected = fingerprint(model)
    model.save_pretrained(tmp_path / "whole")
    model.save_pretrained(tmp_path / "sharded", max_shard_size="20KB")
    assert len(list((tmp_path / "sharded").glob("*.safetensors"))) > 1
    (tmp_path / "pickled").mkdir()
    model.config.save_pretrained(tmp_path / "pickled")
    torch.save(model.state_dict(), tmp_path / "pickled" / "pytorch_model.bin")
    for name in ("whole", "sharded", "pickled"):
        for dtype in (torch.float32, torch.bfloat16):
            assert fingerprint(load_language_model(str(tmp_path / name), dtype)) == expected


def test_models_differ() -> None:
    model = language_model("gpt2", tied=True)
    before = fingerprint(model)
    assert fingerprint(language_model("gpt2", tied=True)) == before
    with torch.no_grad():
        model.get_parameter("transformer.h.1.mlp.c_fc.bias").add_(1)
    assert fingerprint(model) != before
    assert fingerprint(language_model("gpt2", tied=False)) != before
