"""The frozen language model in 8 or 4 bits a weight, through transformers' own integrations.

int8   torchao: whole numbers, one scale for each row of a matrix
int4   bitsandbytes: NF4, sixteen levels, one scale for every 64 numbers (Dettmers et al. 2023)

Only the matrices of the layers are quantized. The input embedding and the output head, which hold
[RET]'s rows, stay as they are, and so do norms, biases and the mappers. A checkpoint is quantized
while it is read, one tensor after the other, on the device where it will be used.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Final, Literal

import torch
from torch import nn

from fromage_weights.errors import QuantizationUnavailable, UnsupportedModel
from fromage_weights.language import load_language_model, output_head, reading_dtype
from fromage_weights.sizes import language_model_outline, language_model_parameters

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Quantization = Literal["none", "int8", "int4"]
QUANTIZATIONS: Final[tuple[Quantization, ...]] = ("none", "int8", "int4")

_PACKAGES: Final = {"int8": "torchao", "int4": "bitsandbytes"}
_BLOCK: Final = 64  # numbers that share a scale in int4
_LANES: Final = 32  # rows that bitsandbytes' kernel for CPUs takes at once
_LEVELS: Final = 16
_SCALE_BYTES: Final = 4
# It warns, when imported, of a part that nothing here uses.
_TALKATIVE: Final = "bitsandbytes.backends.cpu.ops"


def load_quantized_model(
    source: str, name: Quantization, dtype: torch.dtype, device: torch.device
) -> PreTrainedModel:
    """On ``device``, with what isn't quantized in the ``reading_dtype``. Raises
    QuantizationUnavailable, UnsupportedModel, and what ``load_language_model`` does."""
    _check_installed(name)
    with _quiet():
        outline = language_model_outline(source)
        chosen = quantized_layers(outline, name)
        linear = (layer for layer, module in outline.named_modules() if _shape(module))
        config = _config(name, [layer for layer in linear if layer not in chosen], dtype)
        return load_language_model(
            source, reading_dtype(dtype), quantization_config=config, device_map={"": device}
        )


def original_digests(lm: PreTrainedModel) -> dict[str, bytes]:
    """Of the weights of a quantized model as they stood in its checkpoint, by name."""
    quantizer: Any = lm.hf_quantizer
    return dict(quantizer.originals)


def quantized_layers(lm: PreTrainedModel, name: Quantization) -> dict[str, tuple[int, int]]:
    """Which layers of a model ``name`` quantizes, and their (rows, columns). The model may be an
    outline; it isn't quantized yet. Raises UnsupportedModel where there is none."""
    head = output_head(lm)
    found: dict[str, tuple[int, int]] = {}
    for layer, module in lm.named_modules():
        shape = _shape(module)
        inside = any(part.isdigit() for part in layer.split("."))
        if shape and inside and module is not head and _takes(name, module, *shape):
            found[layer] = shape
    if not found and name != "none":
        raise UnsupportedModel(
            f"{type(lm).__name__} has no layers that {name} can hold: it takes linear layers"
            + (f" of {_BLOCK}n inputs and {_LANES}n outputs" if name == "int4" else "")
        )
    return found


def language_model_bytes(lm: PreTrainedModel, dtype: torch.dtype, name: Quantization) -> int:
    """Of a model's weights once loaded."""
    total = language_model_parameters(lm) * dtype.itemsize
    for rows, columns in quantized_layers(lm, name).values():
        total += quantized_bytes(name, rows, columns) - rows * columns * dtype.itemsize
    return total


def largest_product(lm: PreTrainedModel, dtype: torch.dtype, name: Quantization) -> int:
    """Bytes of the largest quantized matrix as numbers of ``dtype``, which it becomes while many
    rows are multiplied with it."""
    sizes = (rows * columns for rows, columns in quantized_layers(lm, name).values())
    return max(sizes, default=0) * dtype.itemsize


def quantized_bytes(name: Quantization, rows: int, columns: int) -> int:
    """Of one matrix, with its scales."""
    if name == "int4":
        return rows * columns // 2 + (rows * columns // _BLOCK + _LEVELS) * _SCALE_BYTES
    return rows * columns + rows * (_SCALE_BYTES + 1)  # and a zero point


def _takes(name: Quantization, module: nn.Module, rows: int, columns: int) -> bool:
    if name == "int4":  # the same on every device, whatever a CPU's kernel asks for
        return columns % _BLOCK == 0 and rows % _LANES == 0
    return name == "int8" and type(module) is nn.Linear


def _shape(module: Any) -> tuple[int, int] | None:
    """(rows, columns) of a linear layer; GPT-2's Conv1D stores the transposed weight."""
    if type(module) is nn.Linear:
        return module.out_features, module.in_features
    if type(module).__name__ == "Conv1D":
        columns, rows = module.weight.shape
        return rows, columns
    return None


def _config(name: Quantization, kept: list[str], dtype: torch.dtype) -> Any:
    from transformers import BitsAndBytesConfig, TorchAoConfig

    from fromage_weights import quantizers

    config: Any
    if name == "int4":
        config = BitsAndBytesConfig(  # type: ignore[no-untyped-call]
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_compute_dtype=dtype,
            llm_int8_skip_modules=kept,
        )
    else:
        from torchao.quantization import Int8WeightOnlyConfig

        # Else torchao sets inductor's options, and float32 products to TF32, for the process.
        scheme = Int8WeightOnlyConfig(set_inductor_config=False)
        config = TorchAoConfig(scheme, modules_to_not_convert=kept)
    config.quant_method = quantizers.NAMES[name]
    return config


def _check_installed(name: Quantization) -> None:
    for package in (_PACKAGES[name], "accelerate"):
        if find_spec(package) is None:
            raise QuantizationUnavailable(
                f"quantize = {name} needs {package}, which is not installed: "
                "pip install 'fromage-server[quantize]'"
            )


@contextmanager
def _quiet() -> Iterator[None]:
    logger = logging.getLogger(_TALKATIVE)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
