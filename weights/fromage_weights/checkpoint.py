"""Checkpoints of the original FROMAGe code: ``model_args.json`` + ``pretrained_ckpt.pth.tar``."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fromage_weights.errors import CheckpointInvalid, ModelUnavailable, one_line
from fromage_weights.mappers import Mappers

ARGS_NAME = "model_args.json"
WEIGHTS_NAME = "pretrained_ckpt.pth.tar"
_RET = "ret_input_embeddings.weight"
_FULL_MATRIX = "model.input_embeddings.weight"
_MAPPED = {
    "model.visual_embeddings.weight": "visual_embeddings.weight",
    "model.visual_embeddings.bias": "visual_embeddings.bias",
    "model.visual_fc.weight": "visual_fc.weight",
    "model.visual_fc.bias": "visual_fc.bias",
    "model.logit_scale": "logit_scale",
}


@dataclass(frozen=True)
class CheckpointArgs:
    """The keys of model_args.json that say what the tensors mean."""

    opt_version: str
    visual_encoder: str
    n_visual_tokens: int
    shared_emb_dim: int
    text_emb_layers: tuple[int, ...]
    retrieval_token_idx: int


@dataclass(frozen=True)
class Checkpoint:
    file: Path
    args: CheckpointArgs
    mappers: Mappers
    embedding_matrix: Tensor | None
    """The whole input embedding (V, D) where the file holds it; only its [RET] row was trained."""


def read_checkpoint(src: str) -> Checkpoint:
    """From a directory or a hub repository."""
    args = _read_args(_locate(src, ARGS_NAME))
    file = _locate(src, WEIGHTS_NAME)
    state = _read_state(file)
    matrix = state.pop(_FULL_MATRIX, None)
    if _RET not in state and matrix is not None:
        state[_RET] = matrix[args.retrieval_token_idx][None]
    return Checkpoint(file, args, _to_mappers(file, args, state), matrix)


def _locate(src: str, name: str) -> Path:
    folder = Path(src)
    if folder.is_dir():
        file = folder / name
        if not file.is_file():
            raise CheckpointInvalid(file, "the file is missing")
        return file
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        return Path(hf_hub_download(src, name))
    except (OSError, HfHubHTTPError, HFValidationError) as error:
        problem = f"neither a directory nor a hub repository with {name} ({one_line(error)})"
        raise ModelUnavailable(f"checkpoint {src}: {problem}") from error


def _read_args(file: Path) -> CheckpointArgs:
    try:
        raw: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        return CheckpointArgs(
            opt_version=str(raw["opt_version"]),
            visual_encoder=str(raw["visual_encoder"]),
            n_visual_tokens=int(raw["n_visual_tokens"]),
            shared_emb_dim=int(raw["shared_emb_dim"]),
            text_emb_layers=tuple(int(layer) for layer in raw["text_emb_layers"]),
            retrieval_token_idx=int(raw["retrieval_token_idx"]),
        )
    except KeyError as error:
        raise CheckpointInvalid(file, f"key {error.args[0]!r} is missing") from error
    except (ValueError, TypeError) as error:
        raise CheckpointInvalid(file, f"not the arguments of a FROMAGe model ({error})") from error


def _read_state(file: Path) -> dict[str, Tensor]:
    """Tensors as float32, without the ``module.`` that distributed training puts in front."""
    try:
        loaded = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever the damaged bytes make the unpickler stumble over
        problem = f"not readable as plain tensors ({one_line(error)})"
        raise CheckpointInvalid(file, problem) from error
    state = loaded.get("state_dict") if isinstance(loaded, dict) else None
    if not isinstance(state, dict):
        raise CheckpointInvalid(file, "has no 'state_dict'")
    return {
        name.removeprefix("module."): value.float()
        for name, value in state.items()
        if isinstance(value, Tensor)
    }


def _to_mappers(file: Path, args: CheckpointArgs, state: dict[str, Tensor]) -> Mappers:
    wanted = dict(_MAPPED) | {_RET: "ret_embedding"}
    for i in range(len(args.text_emb_layers)):
        for kind in ("weight", "bias"):
            wanted[f"model.text_hidden_fcs.{i}.0.{kind}"] = f"text_hidden_fcs.{i}.{kind}"
    missing = sorted(wanted.keys() - state.keys())
    if missing:
        raise CheckpointInvalid(file, f"tensors are missing: {', '.join(missing)}")
    mappers = Mappers(
        vision_dim=state["model.visual_fc.weight"].shape[-1],
        embed_dim=state[_RET].shape[-1],
        hidden_dim=state["model.text_hidden_fcs.0.0.weight"].shape[-1],
        n_visual_tokens=args.n_visual_tokens,
        shared_dim=args.shared_emb_dim,
        text_emb_layers=args.text_emb_layers,
        tied=True,
    )
    try:
        mappers.load_state_dict({new: state[old] for old, new in wanted.items()})
    except RuntimeError as error:
        problem = " ".join(line.strip() for line in str(error).splitlines()[1:])
        raise CheckpointInvalid(file, f"does not fit {ARGS_NAME}: {problem}") from error
    return mappers
