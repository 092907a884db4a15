"""The terminal chat as a command: its flags, its streams, its exit code."""

import argparse
import os
import sys
from typing import TextIO, cast

from ..client import Client
from ..errors import FromageError, Unavailable
from ..options import ChatOptions
from .chat import ReadLine, TerminalChat
from .graphics import Painter, choose_painter
from .screen import Screen

_OPTIONS = ("collection", "temperature", "top_p", "max_tokens", "seed")
_INTERRUPTED = 130
_LONGEST_START_S = 86_400.0
"""Indexing a large collection at the first start takes its time."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `run`. Ranges are the server's to check."""
    parser.add_argument(
        "--url",
        default=os.environ.get("FROMAGE_SERVER", "http://127.0.0.1:8000"),
        help="the server's address (default: $FROMAGE_SERVER, or http://127.0.0.1:8000)",
    )
    parser.add_argument("--collection", help="search this collection of the server's")
    parser.add_argument("--temperature", type=float, help="0 takes the likeliest token each time")
    parser.add_argument("--top-p", type=float, help="sample from this much of the probability")
    parser.add_argument("--max-tokens", type=int, help="the longest reply")
    parser.add_argument("--seed", type=int, help="the same seed gives the same reply")
    parser.add_argument(
        "--images",
        choices=("auto", "inline", "link"),
        default="auto",
        help="pictures in the terminal where it can show them (auto), always, or links only",
    )


def run(args: argparse.Namespace) -> int:
    """Chats until the input ends; 0, or 1 if a line came to an error, 130 when interrupted."""
    _forgive(sys.stdin, sys.stdout)
    interactive = sys.stdin.isatty() and sys.stdout.isatty()
    screen = _screen(args.images)
    try:
        with Client(args.url) as client:
            _wait_until_ready(client, screen)
            chat = TerminalChat(client, screen, _options(args), interactive=interactive)
            chat.run(_reader(interactive))
    except FromageError as error:
        screen.note(f"error: {error}")
        return 1
    except KeyboardInterrupt:
        return _INTERRUPTED
    except BrokenPipeError:
        return _gone()
    return int(chat.failed)


def _forgive(*streams: TextIO) -> None:
    """A character that the locale can't hold is no reason to stop."""
    for stream in streams:
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="replace")


def _screen(images: str) -> Screen:
    tty = sys.stdout.isatty() and os.environ.get("TERM") != "dumb"
    insist = images == "inline"
    painter: Painter | None = None
    if insist or (images == "auto" and tty):
        painter = choose_painter(os.environ, insist=insist)
    screen = Screen(sys.stdout, sys.stderr, links=tty, painter=painter)
    if insist and painter is None:
        screen.note("links only: pictures in this terminal need pillow (pip install pillow)")
    return screen


def _options(args: argparse.Namespace) -> ChatOptions:
    given = {name: getattr(args, name) for name in _OPTIONS if getattr(args, name) is not None}
    return cast(ChatOptions, given)


def _wait_until_ready(client: Client, screen: Screen) -> None:
    """Waits for a server that is loading, not for one that isn't there."""
    try:
        client.ready()
    except Unavailable:
        with screen.waiting() as tell:
            told = "waiting for the server: {}".format
            client.wait_until_ready(_LONGEST_START_S, lambda said: tell(told(said)))


def _reader(interactive: bool) -> ReadLine:
    if not interactive:
        return lambda: next((line.rstrip("\n") for line in sys.stdin), None)
    import readline  # noqa: F401  line editing for input()

    def ask() -> str | None:
        try:
            return input("> ")
        except EOFError:
            print()
            return None

    return ask


def _gone() -> int:
    """Whoever read our output left; Python must not complain when it flushes on exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0
