"""A chat in the terminal: `fromage chat`, or `python -m fromage_client` where only this is."""

from .app import add_arguments, run

__all__ = ["add_arguments", "run"]
