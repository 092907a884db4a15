"""What a training run keeps, and whether another may go on from it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch

from fromage_weights.errors import TrainingInvalid, one_line

CHECKPOINT = "checkpoint.pt"
_PARTS = {"recipe", "cache", "model", "data", "mappers", "optimizer", "step"}
# What depends on more than what was typed: "auto" is another dtype on another device.
_OPTIONS = {"dtype": "dtype (--dtype)"}


def read_checkpoint(file: Path) -> dict[str, Any]:
    """TrainingInvalid where it is none."""
    try:
        state = torch.load(file, weights_only=True, map_location="cpu")
        if not set(state) >= _PARTS:
            raise ValueError("parts are missing")
    except Exception as error:  # torch raises whatever its zip reader and unpickler do
        raise TrainingInvalid(
            f"{file}: not a checkpoint of this version, or damaged ({one_line(error)}); remove it "
            "to begin anew, or name another --out"
        ) from error
    found: dict[str, Any] = state
    return found


def changed_settings(
    state: Mapping[str, Any], settings: Mapping[str, Mapping[str, Any]], free: Collection[str]
) -> list[str]:
    """What differs between a checkpoint and a run's ``settings``, part by part, but for the names
    that are ``free``; in a user's words."""
    return [
        f"{_OPTIONS.get(name, name)} was {state[part].get(name)}, now {value}"
        for part, now in settings.items()
        for name, value in now.items()
        if name not in free and state[part].get(name) != value
    ]
