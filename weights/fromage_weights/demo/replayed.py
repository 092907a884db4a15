"""A training step launched as a whole.

A small model's step is hundreds of kernels, and a CPU takes longer to launch each than a GPU to run
it. Recorded once as a CUDA graph, they are launched together. A recording knows no shapes but its
own, and its numbers come from the same memory every time: whatever differs between steps, be it a
learning rate, is an input.
"""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

_log = logging.getLogger(__name__)
_WARM_UP = 3
# Of a capture that failed, torch's allocator may go on asking the graph whether it is over.
_spoilt: list[torch.cuda.CUDAGraph] = []


@dataclass
class _Recording:
    """Of one set of shapes: where it reads, how often it was run before, what it became."""

    inputs: list[Tensor]
    runs: int = 0
    graph: torch.cuda.CUDAGraph | None = None
    output: Tensor | None = None


class Replayed:
    """`step` over inputs on the CPU, computed on `device`. To `record` takes a CUDA device: then of
    every set of shapes the first steps are run as they stand, and all after them replayed."""

    def __init__(
        self, step: Callable[..., Tensor], device: torch.device, *, record: bool = False
    ) -> None:
        """`step` may leave nothing behind but numbers in tensors that outlive it, and holds no
        gradient of the step before."""
        self._step, self._device, self._record = step, device, record
        self._known: dict[tuple[Any, ...], _Recording] = {}
        # What is recorded has been run on the same stream before, as torch demands.
        self._aside = torch.cuda.Stream(device) if record else None  # type: ignore[no-untyped-call]

    @property
    def recordings(self) -> int:
        return sum(known.graph is not None for known in self._known.values())

    def __call__(self, *inputs: Tensor) -> Tensor:
        """What `step` returns; it is the caller's to keep."""
        if not self._record:
            return self._step(*(given.to(self._device) for given in inputs))
        known = self._fed(inputs)
        if known.graph is None:
            if known.runs < _WARM_UP:
                known.runs += 1
                return self._run_aside(known.inputs)
            if not self._recorded(known):
                return self._step(*known.inputs)
        assert known.graph is not None
        assert known.output is not None
        known.graph.replay()
        return known.output.clone()

    def _fed(self, inputs: tuple[Tensor, ...]) -> _Recording:
        """The recording for such inputs, or what is to become one, with these inputs in place."""
        shapes = tuple((given.shape, given.dtype) for given in inputs)
        if shapes not in self._known:
            self._known[shapes] = _Recording(
                [torch.empty(g.shape, dtype=g.dtype, device=self._device) for g in inputs]
            )
        known = self._known[shapes]
        for place, given in zip(known.inputs, inputs, strict=True):
            # torch gives pinned memory to nobody else while it is being read.
            place.copy_(given.pin_memory(), non_blocking=True)
        return known

    def _run_aside(self, inputs: list[Tensor]) -> Tensor:
        current = torch.cuda.current_stream(self._device)
        assert self._aside is not None
        self._aside.wait_stream(current)
        with torch.cuda.stream(self._aside):
            output = self._step(*inputs)
        current.wait_stream(self._aside)
        return output

    def _recorded(self, known: _Recording) -> bool:
        """Nothing is computed meanwhile. What cannot be recorded goes on as it is."""
        graph, current = torch.cuda.CUDAGraph(), torch.cuda.current_stream(self._device)
        gc.collect()  # a graph that is destroyed meanwhile would spoil this one
        try:
            with torch.cuda.graph(graph, stream=self._aside):
                known.output = self._step(*known.inputs)
        except RuntimeError as error:
            torch.cuda.set_stream(current)  # which a capture that cannot end does not see to
            _log.warning("training steps are not recorded as CUDA graphs: %s", error)
            _spoilt.append(graph)
            self._record = False
            return False
        known.graph = graph
        return True


def state_of(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Its state, with rates as numbers, for any device."""
    state = optimizer.state_dict()
    for group in state["param_groups"]:
        group["lr"] = float(group["lr"])
    return state


def load_state(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Of any device; whether its steps can be recorded stays as it was made."""
    made = [dict(group) for group in optimizer.param_groups]
    optimizer.load_state_dict(state)
    for group, before in zip(optimizer.param_groups, made, strict=True):
        if "capturable" in before:
            group["capturable"] = before["capturable"]
