"""Rows of the evaluation's table: counted successes with their 95 % interval and target."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

_Z = 1.96


@dataclass(frozen=True)
class Row:
    """`hits` of `total`; targets in percent, at least (or at most, where `below`): `first` for a
    first version, `good` for a good one. `p`: of not being better than the row before, by the
    paired bootstrap, where that is asked."""

    name: str
    hits: int
    total: int
    first: float | None = None
    good: float | None = None
    below: bool = False
    p: float | None = None

    @property
    def percent(self) -> float:
        return 100 * self.hits / self.total

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's 95 % interval, in percent. It takes queries for independent; those that share
        a wording are less so."""
        share, n = self.hits / self.total, self.total
        centre = (share + _Z**2 / (2 * n)) / (1 + _Z**2 / n)
        reach = _Z * math.sqrt(share * (1 - share) / n + _Z**2 / (4 * n**2)) / (1 + _Z**2 / n)
        return 100 * max(0.0, centre - reach), 100 * min(1.0, centre + reach)

    def meets(self, target: float | None) -> bool | None:
        """None where there is no target."""
        if target is None:
            return None
        return self.percent <= target if self.below else self.percent >= target

    def as_dict(self) -> dict[str, object]:
        low, high = self.interval
        found = {"percent": round(self.percent, 2), "low": round(low, 2), "high": round(high, 2)}
        met = {"first_met": self.meets(self.first), "good_met": self.meets(self.good)}
        return {**asdict(self), **found, **met}


def table(rows: list[Row]) -> str:
    """The rows as aligned text, the targets beside each figure; "!" marks one that is missed."""
    width = max(len(row.name) for row in rows)
    lines = [f"{'':{width}}   found   95 % interval      n    first     good"]
    for row in rows:
        low, high = row.interval
        told = "".join(f"{_target(row, target):>9}" for target in (row.first, row.good))
        lines.append(
            f"{row.name:{width}}  {row.percent:6.1f}  {low:5.1f} to {high:5.1f}  {row.total:5d}"
            + told
            + ("" if row.p is None else f"   better than the row before: p = {row.p:.4f}")
        )
    return "\n".join(lines)


def _target(row: Row, target: float | None) -> str:
    if target is None:
        return "–"
    return f"{'' if row.meets(target) else '! '}{'≤' if row.below else '≥'} {target:g}"


def paired_bootstrap(
    worse: Sequence[bool], better: Sequence[bool], *, draws: int = 10_000
) -> float:
    """The share of resamples in which `better` isn't: the one-sided p-value of a difference between
    two rates over the same queries. Seeded."""
    gain = np.asarray(better, np.int64) - np.asarray(worse, np.int64)
    rng = np.random.default_rng(0)
    lost = sum(
        int((gain[rng.integers(len(gain), size=(500, len(gain)))].sum(1) <= 0).sum())
        for _ in range(draws // 500)
    )
    return (lost + 1) / (draws + 1)
