"""What rankings are worth, and the lines of a result's table."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from torch import Tensor

RANKS = (1, 5, 10)


def rank_of(scores: Tensor, right: int) -> int:
    """1 for the best. Others that score as high count as better, and so do scores that are not
    numbers: neither must look like success."""
    return int((~(scores < scores[right])).sum())


def recalls(ranks: Sequence[int]) -> dict[str, float]:
    """R@1, R@5 and R@10 in percent."""
    return {f"R@{k}": 100 * sum(r <= k for r in ranks) / len(ranks) for k in RANKS}


def mean_reciprocal_rank(ranks: Sequence[int]) -> float:
    """In percent."""
    return 100 * sum(1 / rank for rank in ranks) / len(ranks)


def ndcg(scores: Tensor, relevance: Tensor) -> float:
    """VisDial's normalised discounted cumulative gain, in percent: over the first K options, K
    those with any relevance (N,). NaN where there is none. Of equal scores the least relevant
    comes first."""
    relevant = int((relevance > 0).sum())
    if relevant == 0:
        return math.nan

    def gain(order: Tensor) -> float:
        found: list[float] = relevance[order[:relevant]].tolist()
        return sum((v / math.log2(place + 2) for place, v in enumerate(found)), start=0.0)

    least_first = relevance.argsort(stable=True)
    ranked = least_first[scores[least_first].argsort(descending=True, stable=True)]
    return 100 * gain(ranked) / gain(relevance.argsort(descending=True))


@dataclass(frozen=True)
class Result:
    """One line: `figures` over `count` queries, `paper` what was published for the 6.7B model."""

    name: str
    figures: dict[str, float]
    count: int
    paper: dict[str, float] | None = None

    def as_dict(self) -> dict[str, object]:
        return asdict(self)


def table(results: Sequence[Result]) -> str:
    """Each result, and under it the published one where there is one."""
    lines: list[tuple[str, dict[str, float], str]] = []
    for result in results:
        lines.append((result.name, result.figures, f"{result.count:,}"))
        if result.paper is not None:
            lines.append(("  the paper, OPT-6.7B", result.paper, ""))
    columns = list(dict.fromkeys(name for _, figures, _ in lines for name in figures))
    width = max(len(name) for name, _, _ in lines)
    wide = [max(7, len(column) + 1) for column in columns]
    head = "".join(f"{column:>{w}}" for column, w in zip(columns, wide, strict=True))
    told = [f"{'':{width}}{head}{'n':>8}"]
    for name, figures, count in lines:
        cells = "".join(
            f"{figures[column]:{w}.1f}" if column in figures else " " * w
            for column, w in zip(columns, wide, strict=True)
        )
        told.append(f"{name:{width}}{cells}{count:>8}".rstrip())
    return "\n".join(told)
