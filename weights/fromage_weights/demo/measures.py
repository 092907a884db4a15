"""Rows of the evaluation's table: counted successes with their 95 % interval and target."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

_Z = 1.96


@dataclass(frozen=True)
class Row:
    """`hits` of `total`; `target` in percent, at least (or at most, where `below`)."""

    name: str
    hits: int
    total: int
    target: float | None = None
    below: bool = False

    @property
    def percent(self) -> float:
        return 100 * self.hits / self.total

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's 95 % interval, in percent."""
        share, n = self.hits / self.total, self.total
        centre = (share + _Z**2 / (2 * n)) / (1 + _Z**2 / n)
        reach = _Z * math.sqrt(share * (1 - share) / n + _Z**2 / (4 * n**2)) / (1 + _Z**2 / n)
        return 100 * max(0.0, centre - reach), 100 * min(1.0, centre + reach)

    @property
    def met(self) -> bool | None:
        if self.target is None:
            return None
        return self.percent <= self.target if self.below else self.percent >= self.target

    def as_dict(self) -> dict[str, object]:
        low, high = self.interval
        found = {"percent": round(self.percent, 2), "low": round(low, 2), "high": round(high, 2)}
        return {**asdict(self), **found, "met": self.met}


def table(rows: list[Row]) -> str:
    """The rows as aligned text, the target beside each figure."""
    width = max(len(row.name) for row in rows)
    lines = [f"{'':{width}}   found   95 % interval      n  target"]
    for row in rows:
        low, high = row.interval
        sign = "≤" if row.below else "≥"
        target = "reported" if row.target is None else f"{sign} {row.target:g}"
        mark = {True: "met", False: "MISSED", None: ""}[row.met]
        lines.append(
            f"{row.name:{width}}  {row.percent:6.1f}  {low:5.1f} to {high:5.1f}  {row.total:5d}  "
            f"{target:9} {mark}".rstrip()
        )
    return "\n".join(lines)
