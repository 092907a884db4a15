"""Products of many rows on a CPU, in each layout: python -m tests.benchmarks.bench_products

Prints GFLOP/s (medians) with all matrices of OPT-125m's layers in turn, so that none of them is
still in a cache, and the ratio to nn.Linear's way within each round.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Sequence
from functools import partial

import torch

from fromage_server.engine.layouts import Product, as_stored, layouts_for
from tests.benchmarks.measure import Run, median_ratio, rates

_LAYERS = 12
_WIDTH, _INNER = 768, 3072
_SHAPES = (*[(_WIDTH, _WIDTH)] * 4, (_INNER, _WIDTH), (_WIDTH, _INNER))  # (out, in)


def _compute(products: Sequence[Product], rows: int) -> float:
    """One layer after the other; returns GFLOP."""
    inputs = {width: torch.ones(rows, width) for width in (_WIDTH, _INNER)}
    for product, (_, width) in zip(products, _SHAPES * _LAYERS, strict=True):
        product(inputs[width])
    return _LAYERS * sum(2e-9 * rows * outputs * width for outputs, width in _SHAPES)


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, nargs="+", default=[8, 16, 32, 57, 120, 512])
    parser.add_argument("--rounds", type=int, default=30)
    args = parser.parse_args()
    torch.manual_seed(0)
    weights = [torch.randn(shape) for shape in _SHAPES * _LAYERS]
    layouts = dict.fromkeys([as_stored, *layouts_for(torch.float32)])
    held = {
        layout.__name__: [layout(weight, torch.randn(len(weight))) for weight in weights]
        for layout in layouts
    }
    for rows in args.rows:
        runs: dict[str, Run] = {
            name: partial(_compute, products, rows) for name, products in held.items()
        }
        found = rates(runs, args.rounds)
        told = [
            f"{name} {statistics.median(values):.0f}"
            f" ({median_ratio(values, found[as_stored.__name__]):.2f})"
            for name, values in found.items()
        ]
        print(f"{rows} rows: {', '.join(told)}", flush=True)


if __name__ == "__main__":
    main()
