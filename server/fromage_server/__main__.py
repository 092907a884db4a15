"""`python -m fromage_server`, and `torchrun -m fromage_server`: the command `fromage`."""

import sys

from fromage_server.cli import main

if __name__ == "__main__":
    sys.exit(main())
