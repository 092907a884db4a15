"""Arguments that several commands take."""

import argparse


def positive(text: str) -> int:
    """A `type` for argparse."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a number from 1 on")
    return int(text)


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
