"""What the engine works on, whatever it is to bring: its positions, its blocks, its caller."""

import hashlib
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable
from collections.abc import Sequence as Seq
from dataclasses import dataclass

from torch import Tensor

from fromage_server.engine.blocks import BlockContent, PrefixCache
from fromage_server.engine.events import Event, FinishEvent, FinishReason, Timings, Usage
from fromage_server.engine.request import GenerationRequest, ScoringRequest
from fromage_weights.grounded import ImageSegment, Segment, TextSegment


@dataclass(frozen=True)
class Reads:
    """Positions whose ``logits`` and whose query embeddings a pass has to bring."""

    logits: tuple[int, ...]
    queries: tuple[int, ...]


class Job(ABC):
    """A request and its caller, from submission to the last event.

    ``blocks`` are its places in the KV storage, and ``computed`` is how many of its positions are
    stored there; ``taken_over`` were, when it last began. A job that lost its blocks begins again
    from 0.
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
        self.taken_over = 0
        self.embedded: Tensor | None = None  # (length, D), while it is being prefilled
        self.cached_tokens: int | None = None
        self.counted = False  # whether they are in the engine's statistics
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

    def cut(self, start: int, stop: int, logits: int) -> int:
        """Where a chunk from ``start`` ends that reads no more than so many logits."""
        return stop

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
