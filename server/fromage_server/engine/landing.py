"""Numbers on their way between the host and the device, neither of which waits for the other."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor


class Landing:
    """Copies of ``tensors``, begun when this is made; the device goes on meanwhile."""

    def __init__(self, *tensors: Tensor) -> None:
        self._copies = [tensor.to("cpu", non_blocking=True, copy=True) for tensor in tensors]
        self._landed: torch.cuda.Event | None = None
        device = next((tensor.device for tensor in tensors if tensor.is_cuda), None)
        if device is not None:
            self._landed = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._landed.record(torch.cuda.current_stream(device))

    def wait(self) -> list[Tensor]:
        """The copies, in order."""
        if self._landed is not None:
            self._landed.synchronize()
        return self._copies


def upload(
    values: Sequence[float] | Sequence[int], dtype: torch.dtype, device: torch.device
) -> Tensor:
    """(n,) on ``device``. From memory that the device reads by itself: a copy from any other makes
    the host wait until everything launched before is done."""
    if device.type != "cuda":
        return torch.tensor(values, dtype=dtype, device=device)
    return torch.tensor(values, dtype=dtype, pin_memory=True).to(device, non_blocking=True)


def current(device: torch.device) -> AbstractContextManager[object]:
    """Makes ``device`` the current one: graphs, and kernels of other libraries, run on that."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()
