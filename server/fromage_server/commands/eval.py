"""``fromage eval demo``: the demo model's figures beside their targets."""

from __future__ import annotations

import argparse
import json
from pathlib import Path


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser("eval", help="measure a model")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="WHAT")
    demo = verbs.add_parser(
        "demo",
        help="the demo model on held-out scenes and unseen wordings",
        description="Chats with the demo bundle about scenes that no training stage has seen, in "
        "wordings kept from training, over a pool of 5,000 pictures; prints every "
        "figure with its 95 % interval and its target.",
    )
    demo.add_argument(
        "--bundle", default="demo", metavar="BUNDLE", help="demo or a directory (default: demo)"
    )
    demo.add_argument(
        "--split",
        choices=("test", "validation"),
        default="test",
        help="test to report, validation to choose by (default: test)",
    )
    demo.add_argument("--json", type=Path, metavar="FILE", help="also write the rows as JSON")
    demo.set_defaults(run=run_demo)


def run_demo(args: argparse.Namespace) -> int:
    from fromage_weights.demo.evaluate import Evaluation
    from fromage_weights.demo.measures import table
    from fromage_weights.loading import load_grounded_model

    print("Drawing the pool and loading the model …", flush=True)
    rows = Evaluation(load_grounded_model(args.bundle), split=args.split).rows()
    print(table(rows))
    if args.json:
        text = json.dumps([row.as_dict() for row in rows], indent=2, ensure_ascii=False)
        args.json.write_text(text + "\n", encoding="utf-8")
    return 0
