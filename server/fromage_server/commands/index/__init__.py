"""``fromage index``: collections of images that [RET] searches."""

from __future__ import annotations

import argparse

from fromage_server.commands.index import add, bench, build, change, collections, copying, look


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    index = subparsers.add_parser("index", help="make a collection of images, change or search it")
    verbs = index.add_subparsers(dest="verb", required=True, metavar="VERB")
    build.register_build(verbs)
    build.register_import(verbs)
    collections.register(verbs)
    add.register(verbs)
    copying.register(verbs)
    change.register(verbs)
    look.register(verbs)
    bench.register(verbs)
