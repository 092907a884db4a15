"""`python -m fromage_client`: the terminal chat."""

import argparse
import sys

from .terminal import add_arguments, run


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m fromage_client", description=__doc__)
    add_arguments(parser)
    return run(parser.parse_args())


if __name__ == "__main__":
    sys.exit(main())
