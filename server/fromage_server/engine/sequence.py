"""One request on its way through the engine."""

import hashlib
import random
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable
from collections.abc import Sequence as Seq
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from fromage_server.engine.blocks import BlockContent, PrefixCache
from fromage_server.engine.detokenizer import Detokenizer
from fromage_server.engine.events import (
    Event,
    FinishEvent,
    FinishReason,
    ScoreEvent,
    Timings,
    TokenEvent,
    Usage,
)
from fromage_server.engine.request import GenerationRequest, ScoringRequest
from fromage_server.engine.sampling import Sampled, SamplingRow
from fromage_server.engine.stop import StopFinder
from fromage_weights.grounded import ImageSegment, Segment, TextSegment


@dataclass(frozen=True)
class Vocabulary:
    """What a sequence has to know of the model's tokens; ``decode`` leaves special ones out."""

    ret_token_id: int
    eos_token_ids: tuple[int, ...]
    decode: Callable[[list[int]], str]


@dataclass(frozen=True)
class Reads:
    """Positions whose ``logits`` and whose query embeddings a pass has to bring."""

    logits: tuple[int, ...]
    queries: tuple[int, ...]


class Job(ABC):
    """A request and its caller, from submission to the last event.

    ``blocks`` are its places in the KV storage, and ``computed`` is how many of its positions are
    stored there. A job that lost its blocks begins again from 0.
    """

    def __init__(
        self,
        request: GenerationRequest | ScoringRequest,
        prompt_tokens: int,
        on_event: Callable[[Event], None],
        n_visual_tokens: int,
    ) -> None:
        self.id = request.id
        self.segments = request.segments
        self.prompt_tokens = prompt_tokens
        self.on_event = on_event
        self.cancelled = False
        self.ended = False
        self.blocks: list[int] = []
        self.computed = 0
        self.embedded: Tensor | None = None  # (length, D), while it is being prefilled
        self.cached_tokens: int | None = None
        self.chain = PrefixCache.ROOT  # of the blocks that the prefix cache knows already
        self.known_blocks = 0
        self._contents = _contents_of(request.segments, n_visual_tokens)
        self._submitted = request.arrived or time.perf_counter()
        self._started: float | None = None
        self._first_token: float | None = None

    @property
    def needs_slot(self) -> bool:
        """Whether it stays in the batch after its prefill."""
        return False

    @property
    def completion_tokens(self) -> int:
        return 0

    @property
    def length(self) -> int:
        """Positions that are known so far."""
        return self.prompt_tokens

    @property
    def most_positions(self) -> int:
        return self.prompt_tokens

    @property
    @abstractmethod
    def reusable(self) -> int:
        """So many positions at the beginning need no pass where their states are known."""

    @abstractmethod
    def reads(self, start: int, stop: int) -> Reads:
        """What has to be read at the positions from ``start`` to ``stop``."""

    def content(self, block: int, size: int) -> BlockContent:
        return tuple(self._contents[block * size : (block + 1) * size])

    def start(self) -> None:
        self._started = self._started or time.perf_counter()

    def forget_states(self) -> None:
        """Begin again: the blocks are gone."""
        self.blocks, self.computed, self.embedded = [], 0, None
        self.chain, self.known_blocks = PrefixCache.ROOT, 0

    def finish_event(self, reason: FinishReason) -> FinishEvent:
        timings = Timings(
            queue_ms=self._since_submission(self._started or time.perf_counter()),
            ttft_ms=self._first_token and self._since_submission(self._first_token),
            total_ms=self._since_submission(time.perf_counter()),
        )
        usage = Usage(self.prompt_tokens, self.completion_tokens, self.cached_tokens or 0)
        return FinishEvent(reason, usage, timings)

    def _since_submission(self, moment: float) -> float:
        return 1000 * (moment - self._submitted)


def _contents_of(segments: Seq[Segment], n_visual_tokens: int) -> list[Hashable]:
    """What stands at each position: a token's id, or an image's digest and which of its soft
    tokens. The mappers are the engine's, the same for all."""
    found: list[Hashable] = []
    for segment in segments:
        if isinstance(segment, TextSegment):
            found.extend(segment.token_ids)
        else:
            digest = _digest(segment)
            found.extend((digest, i) for i in range(n_visual_tokens))
    return found


def _digest(segment: ImageSegment) -> bytes:
    if segment.key is not None:
        return segment.key
    features = segment.features.detach().float().cpu().contiguous().numpy()
    return hashlib.blake2b(features.tobytes(), digest_size=16).digest()


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


class Sequence(Job):
    """One reply being generated: its tokens, its text so far and when it ends."""

    def __init__(
        self,
        request: GenerationRequest,
        prompt_tokens: int,
        on_event: Callable[[Event], None],
        vocabulary: Vocabulary,
        n_visual_tokens: int = 1,
    ) -> None:
        super().__init__(request, prompt_tokens, on_event, n_visual_tokens)
        self.request = request
        self.params = request.params
        self.generated: list[int] = []
        self.rets = 0
        self._prompt_rets = request.prompt_ret_positions  # those not reported yet
        # Set when the reply is complete. With ``query_due`` one forward is still to come.
        self.finish_reason: FinishReason | None = None
        self._ended_by_ret = False
        self._vocabulary = vocabulary
        self._detokenizer = Detokenizer(vocabulary.decode)
        self._stop = StopFinder(() if self.params.compat else self.params.stop)
        # Of its own, so that a seed gives the same draws whatever else is in the batch.
        self._random = random.Random(self.params.seed)
        if self.params.max_tokens == 0:
            self.finish_reason = "length"

    @property
    def needs_slot(self) -> bool:
        return self.params.max_tokens > 0

    @property
    def completion_tokens(self) -> int:
        return len(self.generated)

    @property
    def length(self) -> int:
        return self.prompt_tokens + len(self.generated)

    @property
    def most_positions(self) -> int:
        return self.prompt_tokens + self.params.max_tokens

    @property
    def reusable(self) -> int:
        return min([*self._prompt_rets, self.length - 1])

    def reads(self, start: int, stop: int) -> Reads:
        queries = tuple(p for p in self._prompt_rets if start <= p < stop)
        if stop < self.length:
            return Reads((), queries)
        last = (self.length - 1,)
        logits = last if self.finish_reason is None else ()
        return Reads(logits, queries + (last if self.query_due else ()))

    def report_prompt_rets(self, positions: Seq[int]) -> list[int]:
        """Mark those of ``positions`` as told; their [RET]'s number for each."""
        numbers = [self.request.prompt_ret_positions.index(p) for p in positions]
        self._prompt_rets = tuple(p for p in self._prompt_rets if p not in positions)
        return numbers

    @property
    def query_due(self) -> bool:
        """Whether the next forward feeds a [RET], whose hidden state is its query."""
        if not self.generated or self.generated[-1] != self._vocabulary.ret_token_id:
            return False
        match self.finish_reason:
            case None:
                return True
            case "length":
                return not self.params.compat
            case _:
                return self._ended_by_ret

    def sampling_row(self) -> SamplingRow:
        uniform = self._random.random() if self.params.temperature > 0 else 0.0
        return SamplingRow(self.params, self._forbidden(), uniform)

    def _forbidden(self) -> tuple[int, ...]:
        params, vocabulary = self.params, self._vocabulary
        # No [RET] can be among these yet, so they all are words.
        too_early = len(self.generated) < params.min_word_tokens
        # A reply that would end with its picture ends where the picture would stand.
        masked = self._rets_used_up and not params.stop_after_ret
        ret = (vocabulary.ret_token_id,) if too_early or masked else ()
        return ret + (vocabulary.eos_token_ids if too_early and not params.compat else ())

    @property
    def _rets_used_up(self) -> bool:
        most = self.params.max_num_rets
        return not self.params.compat and most is not None and self.rets >= most

    def accept(self, sampled: Sampled) -> TokenEvent:
        """Append the token; sets ``finish_reason`` where it ends the reply."""
        self._first_token = self._first_token or time.perf_counter()
        token = sampled.token_id
        self.generated.append(token)
        self._contents.append(token)
        ends = self._ends_with(token)
        text = "" if ends else self._text_of(token)
        self._ended_by_ret = not ends and self._is_last_ret(token)
        reason: FinishReason | None = "stop" if ends or self._ended_by_ret else None
        if reason is None and len(self.generated) >= self.params.max_tokens:
            reason = "length"
        if reason is not None:
            text += self._rest_of_text()
        # Looked up last: the rest of the text may have completed a stop string.
        self.finish_reason = "stop" if self._stop.found else reason
        return TokenEvent(token, text, sampled.logprob)

    def _ends_with(self, token: int) -> bool:
        if token == self._vocabulary.ret_token_id and self._rets_used_up:
            return True
        if self.params.compat or self.params.ignore_eos:
            return False
        return token in self._vocabulary.eos_token_ids

    def _is_last_ret(self, token: int) -> bool:
        """Whether the reply ends with this [RET]; a stop string in front of it ends it sooner."""
        is_ret = token == self._vocabulary.ret_token_id
        return is_ret and self.params.stop_after_ret and not self._stop.found

    def _text_of(self, token: int) -> str:
        if token != self._vocabulary.ret_token_id:
            text = self._detokenizer.push(token)
            # Nothing ends a reply before its least length, stop strings neither.
            too_early = len(self.generated) <= self.params.min_word_tokens
            return text if too_early and not self.params.compat else self._stop.feed(text)
        # A picture ends the text before it: nothing can join across it, no stop string either.
        self.rets += 1
        return self._rest_of_text()

    def _rest_of_text(self) -> str:
        if self._stop.found:
            return ""
        text = self._stop.feed(self._detokenizer.flush())
        return text if self._stop.found else text + self._stop.flush()
