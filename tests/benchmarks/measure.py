"""Several ways to do the same, timed in turn, so that a busy machine slows them alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

Run = Callable[[], float]  # does its work and returns how much it did


def timed(work: Callable[[], object]) -> float:
    """Seconds."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def rates(runs: dict[str, Run], rounds: int) -> dict[str, list[float]]:
    """What each run did per second in every round, after one round that is not counted."""
    found: dict[str, list[float]] = {name: [] for name in runs}
    for i in range(rounds + 1):
        for name, run in runs.items():
            start = time.perf_counter()
            done = run()
            if i:
                found[name].append(done / (time.perf_counter() - start))
    return found


def median_ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Median of the ratios within each round."""
    return statistics.median(a / b for a, b in zip(ours, theirs, strict=True))


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which ``share`` of them lie."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


@dataclass(frozen=True)
class Row:
    """``value`` against ``target``: at least that, or at most where ``below``."""

    name: str
    value: float
    target: float | None = None
    below: bool = False
    detail: str = ""

    @property
    def is_met(self) -> bool:
        if self.target is None:
            return True
        return self.value <= self.target if self.below else self.value >= self.target


@dataclass
class Table:
    title: str
    judged: bool = True  # else the targets are for something else, and left out
    rows: list[Row] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def note(self, line: str) -> None:
        """Something that is told below the table, and has no target."""
        self.notes.append(line)
        print(line, flush=True)

    def add(self, row: Row) -> None:
        row = row if self.judged else replace(row, target=None)
        self.rows.append(row)
        print(_line(row), flush=True)

    def markdown(self) -> str:
        lines = [f"### {self.title}", "", "| measured | ratio | at least | |", "|---|---|---|---|"]
        for row in self.rows:
            sign = "≤ " if row.below else ""
            target = "" if row.target is None else f"{sign}{row.target:g}"
            missed = "" if row.is_met else " **missed**"
            lines.append(f"| {row.name} | {row.value:.2f} | {target}{missed} | {row.detail} |")
        return "\n".join([*lines, "", *self.notes])


def _line(row: Row) -> str:
    mark = "" if row.target is None else (" ok" if row.is_met else " MISSED")
    target = "" if row.target is None else f" ({'≤' if row.below else '≥'} {row.target:g}){mark}"
    return f"{row.name}: {row.value:.2f}{target}   {row.detail}"
