"""Values of callers as JSON has them."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from typing import Any

from .errors import UnusableMetadata


def plain_json(name: str, value: Any) -> Any:
    """The value with numpy's numbers and arrays, and every mapping and tuple, as JSON's.

    Raises UnusableMetadata, which begins with `name`, for what JSON does not know: other objects,
    NaN, integers of more digits than Python writes, and what contains itself.
    """
    try:
        return json.loads(json.dumps(value, allow_nan=False, default=_plain))
    except (TypeError, ValueError, RecursionError) as error:
        raise UnusableMetadata(f"{name}: {error}") from error


def _plain(value: object) -> Any:
    numpy = sys.modules.get("numpy")
    if numpy is not None and isinstance(value, numpy.generic | numpy.ndarray):
        return value.tolist()
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"a {type(value).__name__} cannot be written as JSON")
