"""A language model divided among processes, by transformers' own plans (tensor parallelism).

Every process, or rank, holds some of the attention heads and a part of each feed-forward layer, and
all of the embedding, the norms and the head: what a pass brings is then the same on every rank.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from fromage_weights.errors import ParallelUnavailable

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# transformers has none for OPT.
_OPT_PLAN = {
    f"model.decoder.layers.*.{name}": style
    for style, names in {
        "colwise": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "fc1"),
        "rowwise": ("self_attn.out_proj", "fc2"),
    }.items()
    for name in names
}
_WHOLE = "replicate"


@dataclass(frozen=True)
class Division:
    """``plan`` says, by the names of layers, how each is divided among ``world`` ranks, and
    ``kv_heads`` how many key-value heads a rank has of each layer."""

    world: int
    plan: dict[str, str]
    kv_heads: int

    @classmethod
    def of(cls, outline: PreTrainedModel, world: int) -> Division:
        """``outline`` needs no weights. Raises ParallelUnavailable where the model has no plan or
        its heads cannot be shared out evenly."""
        _check_packages()
        name = type(outline).__name__
        plan = dict(outline.tp_plan or {})
        if outline.config.model_type == "opt":
            plan |= _OPT_PLAN
        if not plan:
            raise ParallelUnavailable(
                f"{name} cannot be divided among {world} processes: transformers has no plan for it"
            )
        plan |= dict.fromkeys(_ends(outline), _WHOLE)
        heads = _key_value_heads(outline.config)
        found = _heads_per_rank(plan, heads, world)
        if found is None:
            even = ", ".join(str(n) for n in range(1, heads + 1) if heads % n == 0)
            raise ParallelUnavailable(
                f"{name} has {heads} key-value heads, which {world} processes cannot share evenly; "
                f"tensor_parallel may be {even}"
            )
        return cls(world, plan, found)

    def loading_options(self) -> dict[str, Any]:
        """For ``from_pretrained``, within a process group of ``world`` ranks: each reads its own
        part of the files."""
        from transformers.distributed.configuration_utils import DistributedConfig

        return {"distributed_config": DistributedConfig(tp_size=self.world, tp_plan=self.plan)}

    def settle(self, lm: PreTrainedModel) -> None:
        """After loading: a rank's part as plain tensors, and attention that counts its own heads
        where it counts them at all."""
        layers: list[Any] = list(lm.modules())
        for module in layers:
            if isinstance(module, nn.Linear):
                for name, parameter in list(module.named_parameters(recurse=False)):
                    if (part := local(parameter)) is not parameter:
                        setattr(module, name, nn.Parameter(part, requires_grad=False))
            elif type(module).__name__ == "OPTAttention":
                module.num_heads //= self.world

    def parameters(self, outline: PreTrainedModel) -> int:
        """How many a rank holds; tied matrices counted once."""
        total = 0
        for name, parameter in outline.named_parameters():
            style = self._style(name)
            whole = style is None or style == _WHOLE or style.startswith("replicated")
            once = whole or (style is not None and "rowwise" in style and parameter.ndim == 1)
            total += parameter.numel() if once else -(-parameter.numel() // self.world)
        return total

    def _style(self, parameter: str) -> str | None:
        from transformers.distributed.parallel_utils import replace_layer_number_by_wildcard

        name: str = replace_layer_number_by_wildcard(parameter)
        return self.plan.get(name, self.plan.get(name.rpartition(".")[0]))


def kv_heads_of(lm: PreTrainedModel) -> int:
    """Key-value heads of each layer in this process."""
    heads = _key_value_heads(lm.config)
    parallel = getattr(lm.config, "distributed_config", None)
    if parallel is None:
        return heads
    found = _heads_per_rank(lm.tp_plan, heads, parallel.tp_size)
    assert found is not None  # checked before it was loaded
    return found


def local(weight: Tensor) -> Tensor:
    """This rank's part."""
    part: Tensor = weight.to_local() if hasattr(weight, "to_local") else weight
    return part


def whole(weight: Tensor) -> Tensor:
    """All ranks' parts together; they have to ask for it at the same time."""
    full: Tensor = weight.full_tensor() if hasattr(weight, "full_tensor") else weight
    return full


def check_device(device: torch.device) -> None:
    """transformers divides a model among the accelerators wherever it sees any."""
    if device.type == "cpu" and torch.cuda.is_available():
        raise ParallelUnavailable(
            "device 'cpu': a model is divided among processes on the CPU only where no GPU is "
            "visible; set CUDA_VISIBLE_DEVICES= (empty)"
        )


def _check_packages() -> None:
    try:
        importlib.import_module("accelerate")
        importlib.import_module("transformers.distributed.tensor_parallel")
    except ImportError as error:
        raise ParallelUnavailable(
            "dividing a language model needs accelerate and transformers 5.23 or later: "
            'pip install "fromage-server[parallel]"'
        ) from error


def _ends(lm: PreTrainedModel) -> list[str]:
    """Names of the input embedding and the head: [RET]'s rows are written there."""
    ends = (lm.get_input_embeddings(), lm.get_output_embeddings())  # type: ignore[no-untyped-call]
    return [name for name, module in lm.named_modules() if any(module is end for end in ends)]


def _key_value_heads(config: Any) -> int:
    text = config.get_text_config()
    return int(getattr(text, "num_key_value_heads", None) or text.num_attention_heads)


def _heads_per_rank(plan: dict[str, str], heads: int, world: int) -> int | None:
    """None where they cannot be shared evenly."""
    from transformers.distributed.tensor_parallel import get_kv_heads_per_rank

    found = get_kv_heads_per_rank(plan, heads, world)
    assert not isinstance(found, list)  # that is what a list of layers gives
    return found
