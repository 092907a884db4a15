"""From the states that a recorded pass ends with to logits and tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from fromage_server.engine.greedy_head import GreedyHead
from fromage_server.engine.sampling import Samples, SamplingRow, sample


class Head:
    """``module`` is the language model's own. Where ``pack_linears`` left it the means, greedy rows
    pass by their logits."""

    def __init__(self, module: Any) -> None:
        self._module = module
        make = getattr(module, "make_greedy_head", None)
        self._greedy: GreedyHead | None = make() if make is not None else None

    def logits(self, states: Tensor) -> Tensor:
        """(n, H) -> (n, V) float32."""
        logits: Tensor = self._module(states).float()
        return logits

    def samples(
        self,
        states: Tensor,
        rows: Sequence[SamplingRow],
        ret_token_id: int,
        before: Tensor | None,
    ) -> Samples:
        """(n, H) -> a token per row, see ``sample``."""
        if self._greedy is not None and self._greedy.takes(rows):
            return Samples(None, self._greedy.tokens(states, rows, ret_token_id), rows)
        return sample(self.logits(states), rows, ret_token_id, before)
