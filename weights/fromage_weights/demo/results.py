"""What a run leaves in its directory for another to go on from: checkpoints of trainings, and what
the run is made by."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import torch
from torch import nn

from fromage_weights.bundle import Bundle
from fromage_weights.demo.replayed import load_state, state_of
from fromage_weights.errors import TrainingInvalid
from fromage_weights.files import whole

RUN_NAME = "run.json"
_MOST_TOLD = 4


@dataclass(frozen=True)
class Checkpoint:
    """Where a training keeps how far it is: its step, its weights and its optimizer's state."""

    path: Path

    def save(self, step: int, weights: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        state = {
            "step": step,
            "weights": weights.state_dict(),
            "optimizer": state_of(optimizer),
        }
        with whole(self.path) as file:
            torch.save(state, file)

    def load(self, weights: nn.Module, optimizer: torch.optim.Optimizer) -> int:
        """The step it goes on from; 0, and nothing changed, where none was saved."""
        if not self.path.exists():
            return 0
        state = torch.load(self.path, map_location="cpu", weights_only=True)
        weights.load_state_dict(state["weights"])
        load_state(optimizer, state["optimizer"])
        return int(state["step"])


def identity(bundle: Path | None) -> dict[str, str] | None:
    """Of a bundle to go on from. Its hash alone says nothing about the language model."""
    if bundle is None:
        return None
    found = Bundle.load(bundle)
    return {"bundle": found.hash, "lm": found.config.lm.hash}


def claim(directory: Path, made_by: dict[str, object]) -> None:
    """Note what the run in `directory` is made by. TrainingInvalid where something else is noted:
    its stages would be taken for this run's. One from before there were notes gets this one."""
    file = directory / RUN_NAME
    text = json.dumps(made_by, indent=2) + "\n"
    if not file.exists():
        directory.mkdir(parents=True, exist_ok=True)
        # Stages may start side by side: no two write to the same name.
        unfinished = file.with_name(f"{file.name}.{uuid4().hex}.partial")
        unfinished.write_text(text, encoding="utf-8")
        unfinished.replace(file)
        return
    try:
        there = _flat(json.loads(file.read_text(encoding="utf-8")))
    except ValueError as error:
        raise TrainingInvalid(f"{file}: not readable; name another --out") from error
    asked = _flat(json.loads(text))
    other = [key for key in {**there, **asked} if there.get(key) != asked.get(key)]
    if other:
        told = [f"{key} {there.get(key)}, not {asked.get(key)}" for key in other[:_MOST_TOLD]]
        told += [f"{len(other) - _MOST_TOLD} more"] if len(other) > _MOST_TOLD else []
        raise TrainingInvalid(
            f"{file}: a run that is made by something else ({'; '.join(told)}); name another --out"
        )


def _flat(value: object, path: str = "") -> dict[str, object]:
    """{"a": [{"b": 1}]} -> {"a.0.b": 1}"""
    if isinstance(value, dict):
        parts = list(value.items())
    elif isinstance(value, list):
        parts = list(enumerate(value))
    else:
        return {path: value}
    found: dict[str, object] = {}
    for key, part in parts:
        found |= _flat(part, f"{path}.{key}" if path else str(key))
    return found
