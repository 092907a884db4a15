"""Which frozen model is this? A hash that survives other file formats, shards and load dtypes."""

import hashlib
import json
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from fromage_weights.sharding import local, whole

_SAMPLE = 1024


def fingerprint(model: nn.Module, originals: Mapping[str, bytes] | None = None) -> str:
    """SHA-256 over each distinct weight's shape and a fixed strided sample of its values.

    Values are compared as bfloat16, so float32, float16 and bfloat16 loads of the same file agree
    (float32 and bfloat16 loads of any file do). Names are left out and weights taken in the order
    of their digests: a library that renames modules does not change which model it is. It tells
    models apart; it is no checksum of a file. A divided model has the hash of the whole one, when
    all ranks ask together.

    ``originals``: the digests of weights that the model no longer holds as they were, by name; they
    stand for what it holds in their place.
    """
    found = dict(originals or {})
    digests = [digest(weight) for weight in _distinct_weights(model, found)]
    return hashlib.sha256(b"".join(sorted([*digests, *found.values()]))).hexdigest()


def _distinct_weights(model: nn.Module, replaced: Mapping[str, bytes]) -> list[Tensor]:
    """Floating-point weights and saved buffers, tied ones once; without those ``replaced``, and
    what a quantized weight keeps under its name (weight.absmax, …)."""
    parts = tuple(name + "." for name in replaced)
    weights = {
        (local(value).data_ptr(), tuple(value.shape)): value
        for name, value in model.state_dict().items()
        if name not in replaced and not name.startswith(parts) and value.is_floating_point()
    }
    return list(weights.values())


def digest(weight: Tensor) -> bytes:
    """Of one weight."""
    flat = whole(weight).detach().reshape(-1)
    stride = max(1, flat.numel() // _SAMPLE)
    sample = flat[::stride][:_SAMPLE].to("cpu", torch.bfloat16)
    found = hashlib.sha256(repr(tuple(weight.shape)).encode())
    found.update(sample.contiguous().view(torch.int16).numpy().astype("<i2").tobytes())
    return found.digest()


def digest_of_rows(rows: Sequence[object]) -> str:
    """SHA-256 of what JSON can say, in hex."""
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()
