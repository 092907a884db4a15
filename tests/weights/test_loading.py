"""From a bundle's name to a running model; anything that does not belong is refused."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from fromage_weights.bundle import Bundle
from fromage_weights.devices import choose_device, choose_dtype
from fromage_weights.errors import (
    BundleMismatch,
    BundleNotFound,
    DamagedFile,
    DeviceUnavailable,
    ModelUnavailable,
    UnsupportedModel,
)
from fromage_weights.fingerprint import fingerprint
from fromage_weights.grounded import TextSegment
from fromage_weights.language import load_language_model
from fromage_weights.loading import bundle_directory, load_grounded_model
from tests.weights.tiny_bundle import write_bundle


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return write_bundle(tmp_path_factory.mktemp("bundle"))


@pytest.fixture
def copied(saved: Bundle, tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved.path, tmp_path / "bundle"))


def _change_weights(file: Path, name: str, value: torch.Tensor | None) -> None:
    tensors = load_file(file)
    tensors.pop(name)
    if value is not None:
        tensors[name] = value
    save_file(tensors, file, metadata={"format": "pt"})


def _change_hash(bundle: Path, hash: str) -> None:
    config = json.loads((bundle / "bundle.json").read_text())
    config["lm"] |= {"hash": hash, "files": {}}
    (bundle / "bundle.json").write_text(json.dumps(config))


def test_relative_models_are_found_after_a_move(copied: Path) -> None:
    loaded = load_grounded_model(copied, device="cpu")
    assert loaded.vision is not None
    assert loaded.vision.dim == 24
    assert loaded.model.dtype == torch.float32
    assert loaded.model.device.type == "cpu"
    assert not any(p.requires_grad for p in loaded.model.mappers.parameters())
    assert loaded.model.tokenizer.encode("a [RET]")[-1] == loaded.model.ret_token_id


def test_without_the_vision_encoder(saved: Bundle) -> None:
    assert load_grounded_model(saved.path, device="cpu", vision=False).vision is None


def test_float16_has_the_same_hash(copied: Path) -> None:
    """Also where files in bfloat16 hold numbers that are too small for it."""
    lm = load_language_model(str(copied / "lm"), torch.bfloat16)
    with torch.no_grad():
        for parameter in lm.parameters():
            parameter.mul_(1e-5)
    lm.save_pretrained(copied / "lm")
    _change_hash(copied, fingerprint(lm))
    model = load_grounded_model(copied, device="cpu", dtype="float16", vision=False).model
    assert {parameter.dtype for parameter in model.lm.parameters()} == {torch.float16}
    buffers = {buffer.dtype for buffer in model.lm.buffers() if buffer.is_floating_point()}
    assert buffers <= {torch.float32}


def test_bfloat16_has_the_same_hash(saved: Bundle) -> None:
    model = load_grounded_model(saved.path, device="cpu", dtype="bfloat16", vision=False).model
    assert model.dtype == torch.bfloat16
    with torch.inference_mode():
        output = model.forward(model.embed([TextSegment((0, 5, 6))])[None])
    assert output.logits.isfinite().all()


def test_another_language_model_is_refused(copied: Path) -> None:
    file = copied / "lm" / "model.safetensors"
    name = "model.layers.0.mlp.up_proj.weight"
    _change_weights(file, name, load_file(file)[name] + 0.5)
    expected = Bundle.load(copied).config.lm.hash
    with pytest.raises(BundleMismatch, match="another language model") as caught:
        load_grounded_model(copied, device="cpu")
    assert caught.value.expected == expected != caught.value.found
    assert caught.value.expected in str(caught.value)
    assert caught.value.found in str(caught.value)


def test_another_vision_encoder_is_refused(copied: Path) -> None:
    file = copied / "vision" / "model.safetensors"
    name = next(name for name in load_file(file) if name.endswith("post_layernorm.weight"))
    _change_weights(file, name, load_file(file)[name] * 2)
    with pytest.raises(BundleMismatch, match="another vision encoder"):
        load_grounded_model(copied, device="cpu")


@pytest.mark.parametrize("damage", ["missing", "misshapen", "truncated", "header"])
def test_a_damaged_language_model_is_named(copied: Path, damage: str) -> None:
    file = copied / "lm" / "model.safetensors"
    name = "model.layers.1.mlp.down_proj.weight"
    expected = r"lm.*readable"
    if damage == "missing":
        _change_weights(file, name, None)
        expected = rf"lm: tensors are missing: {name}"
    elif damage == "misshapen":
        _change_weights(file, name, torch.zeros(3, 64))
        expected = rf"{name} has shape \(3, 64\), expected \(32, 64\)"
    else:
        content = bytearray(file.read_bytes())
        content[100] ^= 0xFF
        file.write_bytes(content if damage == "header" else content[:-9])
    with pytest.raises(DamagedFile, match=expected):
        load_grounded_model(copied, device="cpu", vision=False)


def test_a_pickle_with_code_is_not_run(copied: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (exec, (f"open({str(copied / 'ran')!r}, 'w')",))

    (copied / "lm" / "model.safetensors").unlink()
    torch.save({"weight": Trap()}, copied / "lm" / "pytorch_model.bin")
    with pytest.raises(DamagedFile, match="not readable as plain tensors") as caught:
        load_grounded_model(copied, device="cpu", vision=False)
    assert "\n" not in str(caught.value)
    assert not (copied / "ran").exists()


def test_a_missing_language_model_is_named(copied: Path) -> None:
    shutil.rmtree(copied / "lm")
    with pytest.raises(ModelUnavailable, match=r"language model .*lm"):
        load_grounded_model(copied, device="cpu")


def test_features_of_another_width_are_refused(copied: Path) -> None:
    bundle = Bundle.load(copied)
    file = copied / "bundle.json"
    settings = json.loads(file.read_text()) | {"vision_dim": 23, "mappers_sha256": "0" * 64}
    mappers = bundle.config.model_copy(update={"vision_dim": 23}).new_mappers()
    settings["mappers_sha256"] = mappers.save(copied / "mappers.safetensors")
    file.write_text(json.dumps(settings))
    with pytest.raises(UnsupportedModel, match="24 numbers, the bundle expects 23"):
        load_grounded_model(copied, device="cpu")


def test_names_of_bundles(tmp_path: Path) -> None:
    assert bundle_directory("demo").parts[-2:] == ("demo", "bundle")
    assert bundle_directory(str(tmp_path)) == tmp_path
    with pytest.raises(BundleNotFound, match="'no such/bundle/here'"):
        bundle_directory("no such/bundle/here")


def test_devices_and_dtypes() -> None:
    assert choose_device("cpu").type == "cpu"
    assert choose_dtype("auto", torch.device("cpu")) == torch.float32
    assert choose_dtype("bfloat16", torch.device("cpu")) == torch.bfloat16
    with pytest.raises(DeviceUnavailable, match="expected auto, cpu"):
        choose_device("abacus")
    with pytest.raises(DeviceUnavailable, match="CUDA devices"):
        choose_device("cuda:99")
    with pytest.raises(DeviceUnavailable, match="expected auto, float32, bfloat16, float16"):
        choose_dtype("int8", torch.device("cpu"))


@pytest.mark.parametrize("part", ["lm", "vision"])
def test_one_changed_value_between_the_sampled_ones_is_noticed(copied: Path, part: str) -> None:
    """The fingerprint samples a large tensor; the files' checksums see every bit."""
    file = next((copied / part).glob("*.safetensors"))
    tensors = load_file(file)
    name = max(tensors, key=lambda name: tensors[name].numel())
    flat = tensors[name].reshape(-1)
    assert flat.numel() > 2 * 1024
    flat[1] += 1.0
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(DamagedFile, match="SHA-256"):
        load_grounded_model(copied, device="cpu")
