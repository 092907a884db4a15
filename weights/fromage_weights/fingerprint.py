"""Which frozen model is this? A hash that survives other file formats, shards and load dtypes."""

import hashlib

import torch
from torch import Tensor, nn

_SAMPLE = 1024


def fingerprint(model: nn.Module) -> str:
    """SHA-256 over each distinct weight's shape and a fixed strided sample of its values.

    Values are compared as bfloat16, so float32, float16 and bfloat16 loads of the same file agree
    (float32 and bfloat16 loads of any file do). Names are left out and weights taken in the order
    of their digests: a library that renames modules does not change which model it is. It tells
    models apart; it is no checksum of a file.
    """
    digests = sorted(_digest(weight) for weight in _distinct_weights(model))
    return hashlib.sha256(b"".join(digests)).hexdigest()


def _distinct_weights(model: nn.Module) -> list[Tensor]:
    """Floating-point weights and saved buffers, tied ones once."""
    weights = {
        (value.data_ptr(), tuple(value.shape)): value
        for value in model.state_dict().values()
        if value.is_floating_point()
    }
    return list(weights.values())


def _digest(weight: Tensor) -> bytes:
    flat = weight.detach().reshape(-1)
    stride = max(1, flat.numel() // _SAMPLE)
    sample = flat[::stride][:_SAMPLE].to("cpu", torch.bfloat16)
    digest = hashlib.sha256(repr(tuple(weight.shape)).encode())
    digest.update(sample.contiguous().view(torch.int16).numpy().astype("<i2").tobytes())
    return digest.digest()
