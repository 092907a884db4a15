"""The frozen language model: any AutoModelForCausalLM that takes ``inputs_embeds``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import nn

from fromage_weights.errors import DamagedFile, ModelUnavailable, UnsupportedModel, one_line

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# Configurations spell the number of positions differently from family to family.
_CONTEXT_KEYS = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length")
# ALiBi models have no such limit; this is what they are usually trained with.
_CONTEXT_WITHOUT_LIMIT = 2048


def load_language_model(
    source: str, dtype: torch.dtype | Literal["auto"], **options: Any
) -> PreTrainedModel:
    """From a directory or a hub id, frozen, on the CPU unless ``options`` (of transformers'
    ``from_pretrained``) say otherwise; "auto" is the dtype of its files. Never unpickles code."""
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM

    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            source,
            dtype=dtype,
            weights_only=True,
            trust_remote_code=False,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
            **options,
        )
    except (SafetensorError, UnpicklingError, RuntimeError) as error:
        problem = f"a weight file is not readable as plain tensors ({one_line(error)})"
        raise DamagedFile(Path(source), problem) from error
    except (OSError, ValueError) as error:
        missing = is_path(source) and not Path(source).is_dir()
        problem = "no such directory" if missing else one_line(error)
        raise ModelUnavailable(f"language model {source}: {problem}") from error
    model, report = loaded
    _check_complete(source, report)
    return freeze(model)


def is_path(source: str) -> bool:
    """Whether a name can only be meant as a place on disk, and not as a hub id."""
    return source.startswith((".", "/", "~")) or source.count("/") > 1


def _check_complete(source: str, report: dict[str, Any]) -> None:
    """transformers fills gaps with random numbers; here they are errors."""
    if report["missing_keys"]:
        missing = ", ".join(sorted(report["missing_keys"]))
        raise DamagedFile(Path(source), f"tensors are missing: {missing}")
    for name, found, expected in sorted(report["mismatched_keys"]):
        raise DamagedFile(
            Path(source), f"{name} has shape {tuple(found)}, expected {tuple(expected)}"
        )


def reading_dtype(dtype: torch.dtype) -> torch.dtype | Literal["auto"]:
    """In which a model for ``dtype`` is read. float16 has no room for bfloat16's smallest numbers,
    and the hash is of what the files hold: such a model is converted afterwards."""
    return "auto" if dtype == torch.float16 else dtype


def convert_parameters(model: PreTrainedModel, dtype: torch.dtype) -> None:
    """As if it had been loaded in ``dtype``: buffers such as rotary frequencies stay float32, and
    quantized weights what they are."""
    with torch.no_grad():
        for parameter in model.parameters():
            if type(parameter) is nn.Parameter:
                parameter.data = parameter.data.to(dtype)
    model.config.dtype = dtype


def freeze(model: PreTrainedModel) -> PreTrainedModel:
    model.requires_grad_(False)
    model.eval()  # type: ignore[no-untyped-call]
    return model


def input_embedding(model: PreTrainedModel) -> nn.Module:
    module = model.get_input_embeddings()
    if not isinstance(module, nn.Module) or not hasattr(module, "weight"):
        raise UnsupportedModel(f"{type(model).__name__} has no input embedding matrix")
    return module


def output_head(model: PreTrainedModel) -> nn.Module:
    """The last linear layer. Its *input* is the hidden state that [RET] is read from: after the
    final norm and after OPT's ``project_out``."""
    module = model.get_output_embeddings()  # type: ignore[no-untyped-call]
    if not isinstance(module, nn.Module) or not hasattr(module, "weight"):
        raise UnsupportedModel(f"{type(model).__name__} has no output head")
    return module


@contextmanager
def replaced_forward(module: nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    """``module`` computes ``forward`` within, and afterwards what it did before."""
    before = module.__dict__.get("forward")  # somebody else may have replaced it, too
    module.forward = forward
    try:
        yield
    finally:
        del module.forward
        if before is not None:
            module.forward = before


def weight_of(module: nn.Module) -> nn.Parameter:
    weight = module.weight
    assert isinstance(weight, nn.Parameter)
    return weight


def is_tied(model: PreTrainedModel) -> bool:
    return weight_of(output_head(model)) is weight_of(input_embedding(model))


def resize_vocabulary(model: PreTrainedModel, size: int) -> None:
    """Give the model exactly one row per token of its tokenizer.

    OPT's matrix has unused rows at its end: they go, so their ids can never be generated. New
    rows start at zero: the caller writes the ones that matter, and the result stays the same
    from run to run.
    """
    before = weight_of(input_embedding(model)).shape[0]
    if size == before:
        return
    model.resize_token_embeddings(size, mean_resizing=False)
    freeze(model)
    with torch.no_grad():
        for module in {input_embedding(model), output_head(model)}:
            weight_of(module)[before:] = 0
            bias = getattr(module, "bias", None)
            if bias is not None:
                bias[before:] = 0


def context_length(config: Any) -> int:
    text = config.get_text_config()
    for key in _CONTEXT_KEYS:
        value = getattr(text, key, None)
        if isinstance(value, int) and value > 0:
            return value
    return _CONTEXT_WITHOUT_LIMIT


def eos_ids(model: PreTrainedModel, fallback: int | None) -> tuple[int, ...]:
    """All ids that end a reply: some models have several (end of text, end of turn)."""
    generation = getattr(model, "generation_config", None)
    for value in (getattr(generation, "eos_token_id", None), model.config.eos_token_id, fallback):
        if isinstance(value, int):
            return (value,)
        if value:
            return tuple(int(v) for v in value)
    return ()
