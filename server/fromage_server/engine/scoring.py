"""The likelihood of a text, collected piece by piece."""

from collections.abc import Callable
from collections.abc import Sequence as Seq

import numpy as np
from numpy.typing import NDArray

from fromage_server.engine.events import Event, ScoreEvent
from fromage_server.engine.job import Job, Reads
from fromage_server.engine.request import ScoringRequest
from fromage_weights.grounded import Segment, TextSegment


class ScoringJob(Job):
    """One pass over a prompt; collects what it finds, piece by piece."""

    def __init__(
        self,
        request: ScoringRequest,
        prompt_tokens: int,
        on_event: Callable[[Event], None],
        n_visual_tokens: int,
    ) -> None:
        super().__init__(request, prompt_tokens, on_event, n_visual_tokens)
        self.request = request
        self.logprobs: list[float] = []
        self.queries: dict[int, NDArray[np.float32]] = {}
        targets = _targets(request.segments, n_visual_tokens, request.score_from)
        if request.shifted:
            targets = [(position, token) for position, token in targets if position > 0]
        # Position whose logits are read -> the token whose likelihood they tell.
        self._targets = {position - request.shifted: token for position, token in targets}

    @property
    def reusable(self) -> int:
        return min([*self._targets, *self.request.query_positions, self.prompt_tokens - 1])

    def reads(self, start: int, stop: int) -> Reads:
        return Reads(
            tuple(position for position in self._targets if start <= position < stop),
            tuple(p for p in dict.fromkeys(self.request.query_positions) if start <= p < stop),
        )

    def cut(self, start: int, stop: int, logits: int) -> int:
        read = self.reads(start, stop).logits
        return stop if len(read) <= logits else read[logits]

    def tokens_at(self, positions: Seq[int]) -> list[int]:
        return [self._targets[position] for position in positions]

    def forget_states(self) -> None:
        super().forget_states()
        self.logprobs, self.queries = [], {}

    def event(self, shared_dim: int) -> ScoreEvent:
        wanted = [self.queries[position] for position in self.request.query_positions]
        return ScoreEvent(
            positions=tuple(position + self.request.shifted for position in self._targets),
            token_ids=tuple(self._targets.values()),
            logprobs=tuple(self.logprobs),
            queries=np.array(wanted, dtype=np.float32).reshape(-1, shared_dim),
        )


def _targets(
    segments: Seq[Segment], n_visual_tokens: int, score_from: int | None
) -> list[tuple[int, int]]:
    """(position, token id) of the text tokens at ``score_from`` and after it."""
    if score_from is None:
        return []
    found: list[tuple[int, int]] = []
    position = 0
    for segment in segments:
        if isinstance(segment, TextSegment):
            found.extend(enumerate(segment.token_ids, start=position))
            position += len(segment.token_ids)
        else:
            position += n_visual_tokens
    return [(place, token) for place, token in found if place >= score_from]
