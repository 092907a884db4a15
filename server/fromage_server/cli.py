"""The command `fromage`: one verb a module of `commands`."""

from __future__ import annotations

import argparse
import importlib
import logging
import os
import pkgutil
import sys
from collections.abc import Sequence

from fromage_client.errors import FromageError
from fromage_index.errors import IndexFailure
from fromage_server import commands
from fromage_server.errors import ServiceError, SettingsError
from fromage_server.threads import heed_quota
from fromage_weights.errors import WeightsError


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status: 0, 1 where it failed, 2 for wrong usage, 130 when interrupted."""
    args = build_parser().parse_args(argv)
    heed_quota(os.environ)
    # Where torchao is installed transformers imports it, and torch then warns of torchao's enums.
    logging.getLogger("torch.utils._pytree").setLevel(logging.ERROR)
    try:
        return int(args.run(args))
    except (ServiceError, WeightsError, IndexFailure, FromageError) as error:
        print(f"fromage: {error}", file=sys.stderr)
        return 2 if isinstance(error, SettingsError) else 1
    except OSError as error:  # no room, no permission, a directory where a file should be
        print(f"fromage: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="fromage", description="Chat whose replies mix text with pictures of your own."
    )
    verbs = parser.add_subparsers(metavar="COMMAND", required=True)
    for module in sorted(pkgutil.iter_modules(commands.__path__), key=lambda found: found.name):
        importlib.import_module(f"{commands.__name__}.{module.name}").register(verbs)
    return parser
