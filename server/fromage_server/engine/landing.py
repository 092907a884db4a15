"""Numbers on their way from the device to the host."""

import torch
from torch import Tensor


class Landing:
    """Copies of ``tensors``, begun when this is made; the device goes on meanwhile."""

    def __init__(self, *tensors: Tensor) -> None:
        self._copies = [tensor.to("cpu", non_blocking=True) for tensor in tensors]
        self._landed: torch.cuda.Event | None = None
        if any(tensor.is_cuda for tensor in tensors):
            self._landed = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._landed.record()

    def wait(self) -> list[Tensor]:
        """The copies, in order."""
        if self._landed is not None:
            self._landed.synchronize()
        return self._copies
