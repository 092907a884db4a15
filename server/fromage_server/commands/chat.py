"""`fromage chat`: a conversation with a running server, in the terminal."""

import argparse

from fromage_client import terminal


def register(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds the verb `chat`."""
    parser = subparsers.add_parser(
        "chat",
        help="chat with a server in the terminal",
        description="Chat with a server. /help, once inside, lists what else a line can do.",
    )
    terminal.add_arguments(parser)
    parser.set_defaults(run=terminal.run)
