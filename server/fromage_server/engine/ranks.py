"""Several processes that compute together, each with its part of the model (tensor parallelism).

The leader, rank 0, runs the engine: it takes requests, schedules, samples. Of every pass it tells
the followers whose tokens are computed, where their keys and values lie, and the embeddings (of a
recorded pass: the tokens); they make the same pass, layer by layer with the leader, over their own
heads. The metadata is one message between CPUs, embeddings and tokens go from device to device.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import astuple, dataclass
from datetime import timedelta
from typing import Final

import torch
import torch.distributed as dist
from torch import Tensor

from fromage_server.engine.attention import Span
from fromage_server.engine.errors import RanksLost

# A server may be idle for as long as it likes; a peer that dies is noticed by its connection.
_PATIENCE: Final = timedelta(days=3650)
_HEAD: Final = 1024  # numbers of the first message, its own length included
_PASS, _DECODE = range(2)  # how a message begins


@dataclass(frozen=True)
class Pass:
    """What all ranks compute: ``embedded`` (N, D) are the tokens of ``spans`` and then padding;
    ``kept`` are the rows whose results are wanted."""

    spans: tuple[Span, ...]
    kept: tuple[int, ...]
    embedded: Tensor

    @property
    def positions(self) -> list[int]:
        found = [at for span in self.spans for at in range(span.past, span.length)]
        return found + [0] * (len(self.embedded) - len(found))

    @property
    def is_decode(self) -> bool:
        """Whether it is one token of each span, all of whose results are wanted."""
        return self.kept == tuple(range(len(self.embedded))) and len(self.spans) == len(self.kept)


@dataclass(frozen=True)
class DecodePass:
    """A pass of DecodeGraphs, which all ranks record and replay: ``rows`` (S, columns) int32 are
    what it is fed with, on the CPU, and ``before`` (N,) the tokens of the step before, on the
    device."""

    rows: Tensor
    before: Tensor


@dataclass(frozen=True)
class Storage:
    """What the ranks agree upon before their first pass: ``blocks``, the ``streams`` and ``piece``
    of fixed shapes (0 where they are not fixed), and for how many rows of how many pages each
    there are recorded passes (0 where there are none)."""

    blocks: int
    streams: int
    piece: int
    rows: int
    pages: int


class _Ranks:
    """All ranks of the default process group make theirs at the same time."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        control = dist.new_group(backend="gloo", timeout=_PATIENCE)
        assert isinstance(control, dist.ProcessGroup)  # every rank belongs to it
        self._control = control

    def least_free(self, bytes: int) -> int:
        """Free memory that every rank has; processes on a CPU share one memory."""
        shared = dist.get_world_size() if self._device.type == "cpu" else 1
        least = torch.tensor(bytes // shared)
        dist.all_reduce(least, dist.ReduceOp.MIN, group=self._control)
        return int(least)

    def agree(self, done: bool) -> bool:
        """Whether every rank has done it; all of them ask at the same time."""
        least = torch.tensor(int(done))
        dist.all_reduce(least, dist.ReduceOp.MIN, group=self._control)
        return bool(least)


class Leader(_Ranks):
    """``lost`` once a pass has failed: nobody knows then how far the others are."""

    lost = False

    def begin(self, storage: Storage) -> None:
        self._tell(torch.tensor(astuple(storage)))

    @contextmanager
    def together(self, step: Pass | DecodePass) -> Iterator[None]:
        """Within it the leader makes the pass, too."""
        try:
            if isinstance(step, Pass):
                self._tell(torch.tensor([_PASS, *pack(step)]))
                dist.broadcast(step.embedded.contiguous(), 0)
            else:
                count = torch.tensor([_DECODE, len(step.rows), len(step.before)])
                self._tell(torch.cat([count, step.rows.flatten()]))
                if len(step.before):
                    dist.broadcast(step.before.long().contiguous(), 0)
            yield
        except BaseException:
            self.lost = True
            raise

    def check(self) -> None:
        """Raise RanksLost where the ranks are no longer in step."""
        if self.lost:
            raise RanksLost("a pass failed that several processes were making together")

    def stop(self) -> None:
        """Let the followers go, those that are still there."""
        if not self.lost:
            self.lost = True
            with suppress(RuntimeError):
                self._tell(torch.empty(0, dtype=torch.long))

    def _tell(self, numbers: Tensor) -> None:
        message = torch.cat([torch.tensor([len(numbers)]), numbers])
        head = torch.zeros(_HEAD, dtype=torch.long)
        head[: len(message)] = message[:_HEAD]
        dist.broadcast(head, 0, group=self._control)
        if len(message) > _HEAD:
            dist.broadcast(message[_HEAD:], 0, group=self._control)


class Follower(_Ranks):
    """Raises RanksLost where the leader is gone."""

    def __init__(self, device: torch.device, dtype: torch.dtype, width: int) -> None:
        """``width`` D of the embeddings."""
        super().__init__(device)
        self._dtype, self._width = dtype, width

    def begin(self) -> Storage:
        return Storage(*self._hear().tolist())

    def next_pass(self) -> Pass | DecodePass | None:
        """Waits for it; None when the leader has stopped."""
        numbers = self._hear()
        if not len(numbers):
            return None
        if numbers[0] == _PASS:
            size, spans, kept = unpack(numbers[1:].tolist())
            embedded = torch.empty(size, self._width, dtype=self._dtype, device=self._device)
            _receive(embedded)
            return Pass(spans, kept, embedded)
        _, size, count = numbers[:3].tolist()
        before = torch.empty(count, dtype=torch.long, device=self._device)
        if count:
            _receive(before)
        return DecodePass(numbers[3:].view(size, -1).int(), before)

    def _hear(self) -> Tensor:
        head = torch.empty(_HEAD, dtype=torch.long)
        _receive(head, self._control)
        length = int(head[0])
        missing = length + 1 - _HEAD
        if missing <= 0:
            return head[1 : length + 1]
        rest = torch.empty(missing, dtype=torch.long)
        _receive(rest, self._control)
        return torch.cat([head[1:], rest])


def _receive(into: Tensor, group: dist.ProcessGroup | None = None) -> None:
    try:
        dist.broadcast(into, 0, group=group)
    except RuntimeError as error:
        raise RanksLost("the leading process is gone") from error


def pack(step: Pass) -> list[int]:
    numbers = [len(step.embedded), len(step.kept), *step.kept]
    for span in step.spans:
        numbers += [span.count, span.past, len(span.blocks), *span.blocks]
    return numbers


def unpack(numbers: list[int]) -> tuple[int, tuple[Span, ...], tuple[int, ...]]:
    size, kept_count = numbers[:2]
    at = 2 + kept_count
    kept = tuple(numbers[2:at])
    spans: list[Span] = []
    start = 0
    while at < len(numbers):
        count, past, held = numbers[at : at + 3]
        at += 3
        spans.append(Span(start, start + count, past, tuple(numbers[at : at + held])))
        at, start = at + held, start + count
    return size, tuple(spans), kept
