"""``fromage demo train``: make the demo bundle from nothing."""

from __future__ import annotations

import argparse
from pathlib import Path


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser("demo", help="make the demo model")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    train = verbs.add_parser(
        "train",
        help="train language model, tower and mappers from nothing",
        description="Runs the stages in order; what is already in the output directory is kept, "
        "so an interrupted run goes on. Two to three hours on two CPU cores.",
    )
    train.add_argument(
        "--stage",
        action="append",
        metavar="STAGE",
        help="only this one, may be repeated: language, tower, features, mappers, heads, bundle",
    )
    train.add_argument(
        "--out",
        type=Path,
        default=Path("runs/demo"),
        metavar="DIR",
        help="where everything goes; the bundle is in DIR/bundle (default: runs/demo)",
    )
    train.set_defaults(run=run_train, parser=train)


def run_train(args: argparse.Namespace) -> int:
    from fromage_weights.demo.pipeline import STAGES, Pipeline

    stages = tuple(args.stage) if args.stage else STAGES
    unknown = [stage for stage in stages if stage not in STAGES]
    if unknown:
        args.parser.error(f"--stage {unknown[0]}: expected one of {', '.join(STAGES)}")
    Pipeline(args.out).run(stages)
    return 0
