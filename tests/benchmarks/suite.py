"""Everything that is measured, in one table: `fromage bench`.

It starts what it needs, prints each row as it comes, and the table at the end.
"""

from __future__ import annotations

import argparse
import platform
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch

from tests.benchmarks import accelerator, memory, offline, online, profile, workloads
from tests.benchmarks.load import Load
from tests.benchmarks.measure import Table
from tests.benchmarks.ours import Models
from tests.benchmarks.shapes import SHAPES

_OTHERS = ("gpu", "profile", "http", "loads", "memory")


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--shape", choices=sorted(SHAPES), default="opt-125m")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--rounds", type=int, default=5, help="runs of each row; medians are shown")
    parser.add_argument("--clients", type=int, default=16, help="of the rows over HTTP")
    parser.add_argument("--rate", type=float, help="Poisson arrivals per second, not closed loop")
    parser.add_argument("--requests", type=int, default=10_000, help="of the row on memory")
    parser.add_argument(
        "--only",
        action="append",
        choices=[*offline.PARTS, *_OTHERS],
        help="these rows alone; may be given several times",
    )


def run(args: argparse.Namespace) -> Table:
    dtype = getattr(torch, args.dtype)
    wanted = set(args.only or [*offline.PARTS, *_OTHERS])
    on_gpu = torch.device(args.device).type == "cuda"
    table = Table(
        f"{args.shape}, {args.dtype}, {_machine(args.device)}",
        judged=args.shape == ("opt-6.7b" if on_gpu else "opt-125m"),
    )
    print(table.title, flush=True)
    models = Models.of(args.shape, dtype, args.device)
    if on_gpu and "gpu" in wanted:
        accelerator.measure(models, table, args.rounds)
    if on_gpu:  # the rows below have targets for a CPU
        table.judged = False
    for name, part in offline.PARTS.items():
        if name in wanted:
            part(models, table, args.rounds)
    if "profile" in wanted:
        profile.measure(models, table)
    if {"http", "loads"} & wanted:
        with tempfile.TemporaryDirectory() as directory:
            bundle = Path(directory)
            online.write_bundle(bundle, args.shape, dtype)
            load = Load(args.clients, online.EACH, online.TOKENS, args.rate)
            if "http" in wanted:
                if args.rate is None:  # arrivals decide how long it takes, not the server
                    online.against_engine(bundle, models, args.dtype, load, args.rounds, table)
                    online.with_rets(bundle, args.dtype, load, args.rounds, table)
                online.against_transformers_serve(
                    bundle, models, args.dtype, load, args.rounds, table
                )
            if "loads" in wanted:
                workloads.measure(bundle, args.dtype, args.clients, table)
    if "memory" in wanted:
        memory.measure(table, args.requests)
    print("\n" + table.markdown())
    return table


def _machine(device: str) -> str:
    if torch.device(device).type == "cuda":
        return torch.cuda.get_device_name(device)
    threads = f"{torch.get_num_threads()} threads"
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return f"{platform.machine()}, {threads}"
    name = next(line.split(": ")[1] for line in lines if line.startswith("model name"))
    return f"{name}, {threads}"


def main(argv: Sequence[str] | None = None) -> int:
    """1 where a target is missed."""
    parser = argparse.ArgumentParser(prog="fromage bench", description=__doc__)
    arguments(parser)
    table = run(parser.parse_args(argv))
    return 0 if all(row.is_met for row in table.rows) else 1


if __name__ == "__main__":
    raise SystemExit(main())
