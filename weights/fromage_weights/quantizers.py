"""transformers' quantizers, which also keep a digest of each weight before it is quantized: what
tells whether the checkpoint is the right one would be gone otherwise."""

from __future__ import annotations

import ctypes
from typing import Any, Final

from torch import Tensor
from transformers.core_model_loading import ConversionOps
from transformers.quantizers.auto import register_quantizer
from transformers.quantizers.quantizer_bnb_4bit import Bnb4BitHfQuantizer
from transformers.quantizers.quantizer_torchao import TorchAoHfQuantizer

from fromage_weights.fingerprint import digest

# What a configuration's ``quant_method`` says.
NAMES: Final = {"int8": "fromage_int8", "int4": "fromage_int4"}


class _Digesting(ConversionOps):
    """``quantize``, noting in ``originals`` what goes into it."""

    def __init__(self, quantize: ConversionOps, originals: dict[str, bytes]) -> None:
        self._quantize = quantize
        self._originals = originals

    def convert(self, input_dict: dict[str, Any], *args: Any, **more: Any) -> dict[str, Any]:
        (value,) = input_dict.values()
        weight: Tensor = value[0] if isinstance(value, list) else value
        self._originals[more["full_layer_name"]] = digest(weight)
        found: dict[str, Any] = self._quantize.convert(input_dict, *args, **more)
        if weight.device.type == "cpu":
            _trim()
        return found


def _trim() -> None:
    """Give memory back that is free already: glibc keeps what temporary tensors of some megabytes
    took, which comes to more than the model."""
    library = ctypes.CDLL(None)
    if hasattr(library, "malloc_trim"):
        library.malloc_trim(0)


@register_quantizer(NAMES["int8"])
class Int8Quantizer(TorchAoHfQuantizer):
    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self.originals: dict[str, bytes] = {}

    def get_quantize_ops(self) -> ConversionOps:
        quantize: ConversionOps = super().get_quantize_ops()  # type: ignore[no-untyped-call]
        return _Digesting(quantize, self.originals)


@register_quantizer(NAMES["int4"])
class Int4Quantizer(Bnb4BitHfQuantizer):
    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self.originals: dict[str, bytes] = {}

    def get_quantize_ops(self) -> ConversionOps:
        quantize: ConversionOps = super().get_quantize_ops()  # type: ignore[no-untyped-call]
        return _Digesting(quantize, self.originals)
