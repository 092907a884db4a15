"""One reply on its way through the engine."""

import random
import time
from collections.abc import Callable
from collections.abc import Sequence as Seq
from dataclasses import dataclass

from fromage_server.engine.detokenizer import Detokenizer
from fromage_server.engine.events import (
    Event,
    FinishReason,
    TokenEvent,
)
from fromage_server.engine.job import Job, Reads
from fromage_server.engine.request import GenerationRequest
from fromage_server.engine.sampling import Sampled, SamplingRow
from fromage_server.engine.stop import StopFinder


@dataclass(frozen=True)
class Vocabulary:
    """What a sequence has to know of the model's tokens; ``decode`` leaves special ones out."""

    ret_token_id: int
    eos_token_ids: tuple[int, ...]
    decode: Callable[[list[int]], str]


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
        self.pending = 0  # tokens that are sampled, but not known here yet
        self.pending_row = 0  # of the newest one, among the samples of its step
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
        """Positions to compute: a token that ends the reply is not fed, as far as one can know."""
        tokens = len(self.generated) + self.pending
        if self.finish_reason is not None or tokens >= self.params.max_tokens:
            tokens = len(self.generated)
        return self.prompt_tokens + tokens

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
        last = (stop - 1,)
        logits = last if self.finish_reason is None else ()
        unknown = stop > self.prompt_tokens + len(self.generated)  # it may be a [RET]
        return Reads(logits, queries + (last if unknown or self.query_due else ()))

    def queries_due(self, positions: Seq[int]) -> list[int]:
        """Those of ``positions``, whose pass is done, that have a [RET] which wants its query."""
        newest = self.prompt_tokens + len(self.generated) - 1
        return [p for p in positions if p in self._prompt_rets or (p == newest and self.query_due)]

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
        """For the token after the newest one, be that known or pending."""
        uniform = self._random.random() if self.params.temperature > 0 else 0.0
        one_ret = self.pending_row if self._pending_may_be_last else None
        return SamplingRow(self.params, self._forbidden(), uniform, one_ret)

    def sampled(self, row: int) -> None:
        """A token has been sampled on the device; ``accept`` follows when it is known."""
        self.pending += 1
        self.pending_row = row

    def _forbidden(self) -> tuple[int, ...]:
        params, vocabulary = self.params, self._vocabulary
        # No [RET] can be among these yet, so they all are words.
        too_early = len(self.generated) + self.pending < params.min_word_tokens
        # A reply that would end with its picture ends where the picture would stand.
        masked = self._rets_left == 0 and not params.stop_after_ret
        ret = (vocabulary.ret_token_id,) if too_early or masked else ()
        return ret + (vocabulary.eos_token_ids if too_early and not params.compat else ())

    @property
    def _pending_may_be_last(self) -> bool:
        """Whether there is a pending token that, were it a [RET], would be the last one allowed."""
        return self.pending > 0 and self._rets_left == 1 and not self.params.stop_after_ret

    @property
    def _rets_left(self) -> int | None:
        most = self.params.max_num_rets
        return None if self.params.compat or most is None else max(0, most - self.rets)

    def accept(self, sampled: Sampled) -> TokenEvent:
        """Append the token, which was pending; sets ``finish_reason`` where it ends the reply."""
        self._first_token = self._first_token or time.perf_counter()
        self.pending -= 1
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
        if token == self._vocabulary.ret_token_id and self._rets_left == 0:
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
