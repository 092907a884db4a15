"""Arguments that several commands take."""

import argparse
import math
from collections.abc import Callable


def at_least(least: int) -> Callable[[str], int]:
    """A `type` for argparse."""

    def whole(text: str) -> int:
        if not (text.isdecimal() and text.isascii() and len(text) <= 18) or int(text) < least:
            raise argparse.ArgumentTypeError(f"{text!r}: expected a whole number from {least} on")
        return int(text)

    return whole


positive = at_least(1)


def number(text: str) -> float:
    """A `type` for argparse: from zero on."""
    found = _finite(text)
    if found is None or found < 0:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a number from 0 on")
    return found


def above_zero(text: str) -> float:
    """A `type` for argparse."""
    found = _finite(text)
    if found is None or found <= 0:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a number above 0")
    return found


def chance(text: str) -> float:
    """A `type` for argparse."""
    found = _finite(text)
    if found is None or not 0 <= found <= 1:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a number from 0 to 1")
    return found


def _finite(text: str) -> float | None:
    try:
        found = float(text)
    except ValueError:
        return None
    return found if math.isfinite(found) else None


def place_in_list(text: str) -> int:
    """A `type` for argparse."""
    if not (text.isdecimal() and text.isascii() and len(text) <= 18):
        raise argparse.ArgumentTypeError(f"{text!r}: expected a number that a list called next")
    return int(text)


def add_split(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--split",
        choices=("test", "validation"),
        default="test",
        help="test to report, validation to choose by (default: test)",
    )
