"""What a collection may be called."""

from __future__ import annotations

import re
from typing import Final

from fromage_index.errors import BadName

NAME: Final = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"
"""A regular expression for the whole name, which stands in addresses and names a directory."""
RULE: Final = "1 to 64 letters, digits and . _ -, with a letter or digit in front"


def is_name(name: str) -> bool:
    return re.fullmatch(NAME, name) is not None


def checked_name(name: str) -> str:
    """Raises BadName."""
    if not is_name(name):
        raise BadName(f"{name!r} is no name for a collection: it has {RULE}")
    return name
