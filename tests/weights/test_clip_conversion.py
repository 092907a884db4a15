"""Hugging Face CLIP directories give the features that transformers gives."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.testing import assert_close
from transformers import CLIPConfig, CLIPModel, CLIPVisionConfig, CLIPVisionModel

from fromage_weights.errors import DamagedFile, ModelUnavailable, UnsupportedModel
from fromage_weights.vision import VisionEncoder

_VISION: dict[str, Any] = {
    "hidden_size": 24,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "image_size": 32,
    "patch_size": 8,
    "layer_norm_eps": 1e-4,
}
_TEXT = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 50}


@pytest.fixture(params=["quick_gelu", "gelu"])
def vision_directory(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    torch.manual_seed(1)
    model = CLIPVisionModel(CLIPVisionConfig(**_VISION, hidden_act=request.param))
    model.save_pretrained(tmp_path)
    return tmp_path


def _pixels() -> torch.Tensor:
    return torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(5))


def test_vision_model(vision_directory: Path) -> None:
    model = CLIPVisionModel.from_pretrained(vision_directory)
    with torch.inference_mode():
        expected = model(_pixels()).pooler_output
    encoder = VisionEncoder.load(str(vision_directory))
    assert encoder.dim == 24
    assert_close(encoder.encode(_pixels()), expected, atol=1e-5, rtol=1e-5)


def test_full_clip_model(tmp_path: Path) -> None:
    torch.manual_seed(2)
    model = CLIPModel(CLIPConfig(vision_config=_VISION, text_config=_TEXT)).train(False)
    model.save_pretrained(tmp_path)
    with torch.inference_mode():
        expected = model.vision_model(_pixels()).pooler_output
    found = VisionEncoder.load(str(tmp_path)).encode(_pixels())
    assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_preprocessing_is_read(vision_directory: Path) -> None:
    settings = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.25, 0.25, 0.25], "resample": 2}
    (vision_directory / "preprocessor_config.json").write_text(json.dumps(settings))
    from PIL import Image

    pixels = VisionEncoder.load(str(vision_directory)).preprocess(Image.new("RGB", (9, 9), "white"))
    assert_close(pixels, torch.full((3, 32, 32), 2.0))


def test_a_missing_tensor_is_named(vision_directory: Path) -> None:
    file = vision_directory / "model.safetensors"
    tensors = load_file(file)
    name = next(name for name in tensors if name.endswith("layers.1.mlp.fc1.weight"))
    del tensors[name]
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(DamagedFile, match=r"layers\.1\.mlp\.fc1\.weight is missing"):
        VisionEncoder.load(str(vision_directory))


def test_a_truncated_file_is_named(vision_directory: Path) -> None:
    file = vision_directory / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(DamagedFile, match=r"model\.safetensors"):
        VisionEncoder.load(str(vision_directory))


def test_another_activation_is_refused(vision_directory: Path) -> None:
    file = vision_directory / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"hidden_act": "relu"}))
    with pytest.raises(UnsupportedModel, match="relu"):
        VisionEncoder.load(str(vision_directory))


def test_a_directory_without_a_model(tmp_path: Path) -> None:
    with pytest.raises(ModelUnavailable, match=r"open_clip_config\.json"):
        VisionEncoder.load(str(tmp_path))
