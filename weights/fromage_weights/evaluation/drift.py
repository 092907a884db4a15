"""How far a model strays from itself in other numbers: quantized, say, from bfloat16.

Its chats are answered greedily by the base; the other model reads those same replies (teacher
forcing), and writes its own. Its queries, [RET] right behind a text, rank the same pictures.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import Tensor

from fromage_weights.evaluation.decoding import greedy, pad_left
from fromage_weights.evaluation.queries import caption_queries, check_length
from fromage_weights.evaluation.responder import Message, Responder

if TYPE_CHECKING:
    from fromage_weights.loading import LoadedBundle

T = TypeVar("T")
Search = Callable[[Tensor], list[list[Hashable]]]
"""(N, E) unit queries -> the pictures of each, best first, five or more."""

FIRST = 5
MAX_TOKENS = 40
_BATCH = 16
_KEPT = 100  # likeliest tokens of the base, whose probabilities are kept


@dataclass(frozen=True)
class Probe:
    """What is asked. ``right``: for each of ``texts`` the pictures that are right, or None."""

    chats: Sequence[Sequence[Message]]
    texts: Sequence[str]
    right: Sequence[Collection[Hashable] | None]


@dataclass(frozen=True)
class Forced:
    """The distributions over a reply's n tokens: ``tokens`` (n, K) the likeliest, and their
    ``logs`` (n, K), natural logarithms."""

    tokens: Tensor
    logs: Tensor


@dataclass(frozen=True)
class Base:
    """What the model to compare with did."""

    replies: list[list[int]]
    forced: list[Forced]
    queries: Tensor
    found: list[list[Hashable]] | None


@dataclass(frozen=True)
class Drift:
    """``same_token``: share of the tokens of the base's replies than which none is likelier.
    ``same_reply``: replies that are equal to their end, ``common`` tokens of ``length`` on average
    before the first difference. ``divergence``: Kullback-Leibler, base to other, in nats per token,
    the base's likeliest hundred apart and all others as one. ``cosine`` of the queries.
    ``same_first`` and ``shared_five``: of the pictures found. ``recall_1`` and ``recall_5``: how
    often a right one is among them. Shares are in percent, None where nothing was searched or
    nothing is known to be right."""

    same_token: float
    same_reply: float
    common: float
    length: float
    divergence: float
    cosine: float
    same_first: float | None
    shared_five: float | None
    recall_1: float | None
    recall_5: float | None

    def as_dict(self) -> dict[str, float | None]:
        return asdict(self)


class DriftMeter:
    """One probe, and the pictures it is asked over (None: no pictures)."""

    def __init__(
        self, probe: Probe, search: Search | None = None, *, max_tokens: int = MAX_TOKENS
    ) -> None:
        self._probe, self._search, self._max_tokens = probe, search, max_tokens

    def base(self, loaded: LoadedBundle) -> Base:
        replies = self._replies(loaded)
        forced = self._forced(loaded, replies, lambda _, logs: Forced(*_likeliest(logs)))
        queries = caption_queries(loaded.model, self._probe.texts)
        return Base(replies, forced, queries, self._found(queries))

    def compare(self, loaded: LoadedBundle, base: Base) -> Drift:
        """The base itself can be compared, too: what is left is the reach of batching."""
        own = self._replies(loaded)
        positions = self._forced(
            loaded,
            base.replies,
            lambda i, logs: (_agrees(base.replies[i], logs), _divergence(base.forced[i], logs)),
        )
        same, divergence = (torch.cat(parts) for parts in zip(*positions, strict=True))
        common = [_common(*pair) for pair in zip(own, base.replies, strict=True)]
        queries = caption_queries(loaded.model, self._probe.texts)
        return Drift(
            same_token=_percent(same.tolist()),
            same_reply=_percent([a == b for a, b in zip(own, base.replies, strict=True)]),
            common=fmean(common),
            length=fmean(map(len, base.replies)),
            divergence=float(divergence.mean()),
            cosine=float((queries * base.queries).sum(-1).mean()),
            **self._retrieval(self._found(queries), base.found),
        )

    def _replies(self, loaded: LoadedBundle) -> list[list[int]]:
        """Of every chat, up to its end or [RET], that token included."""
        model, responder = loaded.model, Responder(loaded)
        prompts = [model.embed(responder.segments(chat)) for chat in self._probe.chats]
        longest = max(map(len, prompts))
        check_length(model, longest + self._max_tokens)
        found: dict[int, list[int]] = {}
        stop = {model.ret_token_id, *responder.ends}
        for part in _batches([len(prompt) for prompt in prompts]):
            chosen = [prompts[i] for i in part]
            told = greedy(model.lm, chosen, stop=stop, max_tokens=self._max_tokens)
            found.update(zip(part, told, strict=True))
        return [found[i] for i in range(len(prompts))]

    @torch.inference_mode()
    def _forced(
        self,
        loaded: LoadedBundle,
        replies: Sequence[Sequence[int]],
        read: Callable[[int, Tensor], T],
    ) -> list[T]:
        """What ``read`` makes of each chat's number and the (n, V) log-probabilities at the n
        tokens of its reply."""
        model, responder = loaded.model, Responder(loaded)
        whole = []
        for chat, reply in zip(self._probe.chats, replies, strict=True):
            written = model.embed_ids(torch.tensor(reply[:-1], dtype=torch.long))
            whole.append(torch.cat([model.embed(responder.segments(chat)), written]))
        found: dict[int, T] = {}
        for part in _batches([len(rows) for rows in whole]):
            embeds, mask = pad_left([whole[i] for i in part])
            longest = max(len(replies[i]) for i in part)
            positions = (mask.cumsum(1) - 1).clamp(min=0)
            logits = model.forward(embeds, mask, positions, logits_to_keep=longest).logits
            for i, row in zip(part, logits, strict=True):
                found[i] = read(i, row[-len(replies[i]) :].log_softmax(-1).cpu())
        return [found[i] for i in range(len(whole))]

    def _found(self, queries: Tensor) -> list[list[Hashable]] | None:
        if self._search is None or not len(queries):
            return None
        return [pictures[:FIRST] for pictures in self._search(queries)]

    def recalls(self, found: list[list[Hashable]] | None) -> tuple[float | None, float | None]:
        """R@1 and R@5 over the texts of which it is known what is right."""
        if found is None:
            return None, None
        known = [
            (pictures, right)
            for pictures, right in zip(found, self._probe.right, strict=True)
            if right is not None
        ]
        if not known:
            return None, None
        hits = [[picture in right for picture in pictures] for pictures, right in known]
        return _percent([any(hit[:1]) for hit in hits]), _percent([any(hit) for hit in hits])

    def _retrieval(
        self, found: list[list[Hashable]] | None, base: list[list[Hashable]] | None
    ) -> dict[str, float | None]:
        one, five = self.recalls(found)
        figures = {"recall_1": one, "recall_5": five}
        if found is None or base is None:
            return {"same_first": None, "shared_five": None, **figures}
        pairs = list(zip(found, base, strict=True))
        shared = [len(set(a) & set(b)) / len(b) for a, b in pairs if b]
        return {
            "same_first": _percent([a[:1] == b[:1] for a, b in pairs]),
            "shared_five": 100 * fmean(shared),
            **figures,
        }


def _common(one: Sequence[int], other: Sequence[int]) -> int:
    """Tokens before the first difference."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(one), len(other)))


def _batches(lengths: Sequence[int]) -> list[list[int]]:
    """Numbers of items, those of like length together."""
    order = sorted(range(len(lengths)), key=lengths.__getitem__)
    return [order[start : start + _BATCH] for start in range(0, len(order), _BATCH)]


def _likeliest(logs: Tensor) -> tuple[Tensor, Tensor]:
    best = logs.topk(min(_KEPT, logs.shape[-1]), dim=-1)
    return best.indices, best.values


def _agrees(reply: Sequence[int], logs: Tensor) -> Tensor:
    """(n,) whether no token is likelier than the reply's; in bfloat16 some are as likely."""
    own = logs.gather(-1, torch.tensor(reply)[:, None])[:, 0]
    return own >= logs.amax(-1)


def _divergence(base: Forced, logs: Tensor) -> Tensor:
    """(n,)"""
    p, q = base.logs.double(), logs.gather(-1, base.tokens).double()
    rest_p, rest_q = (
        (1 - some.exp().sum(-1, keepdim=True)).clamp(min=1e-12).log() for some in (p, q)
    )
    p, q = torch.cat([p, rest_p], -1), torch.cat([q, rest_q], -1)
    return (p.exp() * (p - q)).sum(-1)


def _percent(hits: Sequence[bool]) -> float:
    return 100 * sum(hits) / len(hits)
