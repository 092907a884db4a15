"""What metadata may be: what filters understand, and no more of it than is read quickly."""

from __future__ import annotations

import json
import math
from typing import Any

from fromage_index.errors import BadMetadata
from fromage_index.record import Metadata

MAX_BYTES = 65_536


def checked(value: Any) -> Metadata:
    """`value` where it is an object of strings, numbers, booleans, null and lists of them.

    Raises BadMetadata naming the field.
    """
    if not isinstance(value, dict):
        raise BadMetadata(f"metadata is a {type(value).__name__}; an object was expected")
    for field, content in value.items():
        if not isinstance(field, str) or not field:
            raise BadMetadata("a metadata field has no name")
        for member in content if isinstance(content, list) else [content]:
            _check_scalar(field, member)
    _check_size(value)
    return value


def merged(metadata: Metadata, changes: Metadata) -> Metadata:
    """With the changes' fields; null takes one away. Raises BadMetadata as `checked` does of the
    changes, and where there is too much together. What a folder's sidecar said may be nested."""
    together = {**metadata, **checked(changes)}
    kept = {name: value for name, value in together.items() if value is not None}
    _check_size(kept)
    return kept


def _check_size(metadata: Metadata) -> None:
    try:
        size = len(json.dumps(metadata, ensure_ascii=False).encode())
    except UnicodeEncodeError as error:
        raise BadMetadata("metadata holds half of a surrogate pair, no character") from error
    if size > MAX_BYTES:
        raise BadMetadata(f"metadata has {size:,} bytes as JSON; at most {MAX_BYTES:,} are kept")


def _check_scalar(field: str, value: Any) -> None:
    if value is not None and not isinstance(value, str | int | float | bool):
        raise BadMetadata(
            f"{field[:80]!r} is a {type(value).__name__}; use a string, number, boolean or null, "
            "or a list of them"
        )
    if isinstance(value, float) and not math.isfinite(value):
        raise BadMetadata(f"{field[:80]!r} is {value}, which JSON does not know")
