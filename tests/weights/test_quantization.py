"""A language model in int8 and int4: what is quantized, how much it takes, and that it is still
known for the one it was."""

import shutil
import subprocess
import sys
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from fromage_weights import fingerprint, quantization
from fromage_weights.bundle import Bundle
from fromage_weights.errors import BundleMismatch, QuantizationUnavailable, UnsupportedModel
from fromage_weights.grounded import GroundedModel, TextSegment
from fromage_weights.language import input_embedding, output_head, weight_of
from fromage_weights.loading import load_grounded_model
from fromage_weights.quantization import (
    Quantization,
    language_model_bytes,
    quantized_bytes,
    quantized_layers,
)
from fromage_weights.sizes import language_model_outline
from tests.weights.tiny_bundle import write_bundle

WIDTH = 128
BOTH = pytest.mark.parametrize("quantize", ["int8", "int4"])
LAYERS = 2 * 7  # of llama, in two blocks

pytest.importorskip("torchao")
pytest.importorskip("bitsandbytes")


@pytest.fixture(scope="module", params=[True, False], ids=["tied", "untied"])
def saved(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return write_bundle(tmp_path_factory.mktemp("bundle"), tied=request.param, width=WIDTH)


def load(bundle: Bundle | Path, quantize: Quantization, device: str = "cpu", **more: Any) -> Any:
    path = bundle if isinstance(bundle, Path) else bundle.path
    loaded = load_grounded_model(path, device=device, quantize=quantize, vision=False, **more)
    return loaded.model


def logits(model: GroundedModel) -> torch.Tensor:
    with torch.inference_mode():
        prompt = model.embed([TextSegment(tuple(range(30)))])
        return model.forward(prompt[None]).logits[0].cpu()


def held(lm: Any, layer: str) -> int:
    """Bytes of a quantized matrix as it lies in memory."""
    weight = lm.get_submodule(layer).weight
    if hasattr(weight, "quant_state"):
        state = weight.quant_state
        return int(weight.nbytes + state.absmax.nbytes + state.code.nbytes)
    return int(weight.qdata.nbytes + weight.scale.nbytes + weight.zero_point.nbytes)


@BOTH
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_only_the_layers_are_quantized(saved: Bundle, quantize: Quantization, dtype: str) -> None:
    model, plain = load(saved, quantize, dtype=dtype), load(saved, "none", dtype="float32")
    layers = quantized_layers(plain.lm, quantize)
    assert len(layers) == LAYERS
    for layer, shape in layers.items():
        assert held(model.lm, layer) == quantized_bytes(quantize, *shape), layer
    numbers = getattr(torch, dtype)
    assert model.dtype == numbers
    for module in (input_embedding(model.lm), output_head(model.lm)):
        weight = weight_of(module)
        assert (type(weight), weight.dtype) == (torch.nn.Parameter, numbers)
    row = weight_of(input_embedding(model.lm))[model.ret_token_id]
    assert torch.equal(row, model.mappers.ret_embedding[0].to(numbers))
    assert {p.dtype for p in model.mappers.parameters()} == {torch.float32}
    assert not any(p.requires_grad for p in model.lm.parameters())
    expected, found = logits(plain), logits(model)
    error = (found - expected).norm() / expected.norm()
    assert 1e-4 < error < {"int8": 0.15, "int4": 0.8}[quantize]


@BOTH
def test_another_language_model_is_refused(
    saved: Bundle, tmp_path: Path, quantize: Quantization
) -> None:
    """By a weight of which nothing but its quantized form is left."""
    copied = Path(shutil.copytree(saved.path, tmp_path / "bundle"))
    file = copied / "lm" / "model.safetensors"
    tensors = load_file(file)
    tensors["model.layers.0.mlp.up_proj.weight"] += 0.5
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(BundleMismatch, match="another language model") as caught:
        load(copied, quantize)
    with pytest.raises(BundleMismatch) as plain:
        load(copied, "none")
    assert caught.value.found == plain.value.found


@BOTH
def test_float16_has_the_same_hash(saved: Bundle, tmp_path: Path, quantize: Quantization) -> None:
    """Also where files in bfloat16 hold numbers that are too small for it."""
    copied = Path(shutil.copytree(saved.path, tmp_path / "bundle"))
    file = copied / "lm" / "model.safetensors"
    tensors = {name: (1e-5 * tensor).bfloat16() for name, tensor in load_file(file).items()}
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(BundleMismatch) as plain:
        load(copied, "none", dtype="bfloat16")
    with pytest.raises(BundleMismatch) as narrow:
        load(copied, quantize, dtype="float16")
    assert narrow.value.found == plain.value.found


@BOTH
def test_no_two_whole_tensors_at_once(
    saved: Bundle, monkeypatch: pytest.MonkeyPatch, quantize: Quantization
) -> None:
    from fromage_weights import quantizers

    before: list[weakref.ref[torch.Tensor]] = []

    def digest(weight: torch.Tensor) -> bytes:
        assert not [ref for ref in before if ref() is not None]
        before.append(weakref.ref(weight))
        return fingerprint.digest(weight)

    monkeypatch.setattr(quantizers, "digest", digest)
    load(saved, quantize)
    assert len(before) == LAYERS


@pytest.mark.slow
@BOTH
def test_what_was_needed_on_the_way_is_given_back(tmp_path: Path, quantize: Quantization) -> None:
    """In a process of its own: what this one holds already would hide it."""
    if sys.platform != "linux":
        pytest.skip("reads /proc")
    bundle = write_bundle(tmp_path, width=2048)
    script = f"""
import re, transformers.models.llama.modeling_llama, torch
from pathlib import Path
from fromage_weights import quantizers
from fromage_weights.quantization import load_quantized_model
def held():
    return int(re.search(r"RssAnon:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
load_quantized_model({str(write_bundle(tmp_path / "small", width=128).path / "lm")!r},
                     {quantize!r}, torch.bfloat16, torch.device("cpu"))
before = held()
lm = load_quantized_model({str(bundle.path / "lm")!r},
                          {quantize!r}, torch.bfloat16, torch.device("cpu"))
print((held() - before) << 10)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    outline = language_model_outline(str(bundle.path / "lm"))
    expected = language_model_bytes(outline, torch.bfloat16, quantize)
    assert int(done.stdout) < 1.25 * expected


@pytest.mark.parametrize(
    ("family", "width", "quantize", "expected"),
    [("llama", 48, "int4", r"int4 .* 64n inputs"), ("gpt2", 64, "int8", "GPT2LMHeadModel has no")],
)
def test_a_model_without_such_layers_is_refused(
    tmp_path: Path, family: str, width: int, quantize: Quantization, expected: str
) -> None:
    bundle = write_bundle(tmp_path, family=family, tied=True, width=width)
    with pytest.raises(UnsupportedModel, match=expected):
        load(bundle, quantize)


def test_layers_that_do_not_fit_stay_as_they_are(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path, family="gpt_neox", width=64)  # its inner width is 64, too
    outline = language_model_outline(str(bundle.path / "lm"))
    inner: Any = outline.get_submodule("gpt_neox.layers.0.mlp.dense_h_to_4h")
    inner.out_features = 100
    assert len(quantized_layers(outline, "int8")) == 8
    assert len(quantized_layers(outline, "int4")) == 7


@BOTH
def test_a_missing_package_is_named(
    saved: Bundle, monkeypatch: pytest.MonkeyPatch, quantize: Quantization
) -> None:
    monkeypatch.setattr(quantization, "find_spec", lambda name: None)
    package = {"int8": "torchao", "int4": "bitsandbytes"}[quantize]
    with pytest.raises(QuantizationUnavailable, match=rf"needs {package}.*fromage-server\[quant"):
        load(saved, quantize)


@pytest.mark.gpu
@BOTH
def test_on_a_gpu(tmp_path: Path, quantize: Quantization) -> None:
    if not torch.cuda.is_available():
        pytest.skip("there is no CUDA device")
    bundle = write_bundle(tmp_path, width=1024)
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    model = load(bundle, quantize, device="cuda", dtype="bfloat16")
    taken = torch.cuda.max_memory_allocated() - before
    assert model.device.type == "cuda"
    whole = 2 * sum(p.numel() for p in language_model_outline(str(bundle.path / "lm")).parameters())
    assert taken < 0.8 * whole
    expected = logits(load(bundle, "none", dtype="float32"))
    found = logits(model)
    assert (found - expected).norm() / expected.norm() < {"int8": 0.15, "int4": 0.8}[quantize]
