"""Which device and which number format to run in."""

import torch

from fromage_weights.cpu import avoid_hidden_amx
from fromage_weights.errors import DeviceUnavailable

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def choose_device(name: str) -> torch.device:
    """``auto`` is CUDA where there is one; otherwise a name that torch knows."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise DeviceUnavailable(f"device {name!r}: expected auto, cpu, cuda or cuda:N") from None
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise DeviceUnavailable(
            f"device {name!r}: this machine has {torch.cuda.device_count()} CUDA devices"
        )
    return device


def choose_dtype(name: str, device: torch.device) -> torch.dtype:
    """``auto`` is bfloat16 on a CUDA device that has it, else float32.

    bfloat16 on a CPU is made to work (``cpu``), so call this before anything is computed.
    """
    if name == "auto":
        has_bf16 = device.type == "cuda" and torch.cuda.is_bf16_supported()
        return torch.bfloat16 if has_bf16 else torch.float32
    if name not in _DTYPES:
        raise DeviceUnavailable(f"dtype {name!r}: expected auto, {', '.join(_DTYPES)}")
    dtype = _DTYPES[name]
    if dtype == torch.bfloat16 and device.type == "cpu":
        avoid_hidden_amx()
    return dtype


def full_float32_precision() -> None:
    """float32 means float32: no TF32 in matrix products or convolutions."""
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
