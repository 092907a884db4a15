"""`fromage bench`: the engine and the server, measured beside what else there is."""

from __future__ import annotations

import argparse
import importlib
import sys
from pathlib import Path
from typing import Any

from fromage_server.errors import SettingsError

_CHECKOUT = Path(__file__).parents[3]


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser(
        "bench",
        help="measure the engine and the server beside transformers, in one table",
        description="Runs the measurements of a checkout's tests/benchmarks on models of random "
        "weights, made on the spot. The exit status is 1 where a target is missed.",
        # Nothing is an option here: the suite has its own, which are only known once it is there.
        add_help=False,
        prefix_chars="\0",
    )
    parser.add_argument("options", nargs="*", help="see fromage bench --help")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    return int(_suite().main(args.options))


def _suite() -> Any:
    """Imported only now: it brings torch and the peers with it."""
    if not (_CHECKOUT / "tests" / "benchmarks" / "suite.py").is_file():
        raise SettingsError(
            "the measurements are not part of the installed package: run this in a checkout"
        )
    sys.path.insert(0, str(_CHECKOUT))
    return importlib.import_module("tests.benchmarks.suite")
