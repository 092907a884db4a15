"""Reads JSON that others wrote; what Python's reader says of its own limits is said of theirs."""

from __future__ import annotations

import json
import sys
from typing import Any

_SHOWN = 20
_Path = tuple["_Path", str | int] | None


class UnreadableJson(ValueError):
    """JSON in form, and yet too much: `problem` is said of `field`, a path such as
    ``filter.year``, or of the whole where that is empty."""

    def __init__(self, problem: str, field: str = "") -> None:
        super().__init__(f"{field or 'it'} {problem}")
        self.problem = problem
        self.field = field


class _Digits(str):
    """An integer as it is written."""


def parse(text: str | bytes) -> Any:
    """Raises json.JSONDecodeError where it is not JSON, UnreadableJson where it is too much."""
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        raise
    except RecursionError:
        raise UnreadableJson("is nested too deeply") from None
    except UnicodeDecodeError:
        raise UnreadableJson("is not UTF-8") from None
    except ValueError:
        raise _too_long(json.loads(text, parse_int=_Digits)) from None


def _too_long(content: Any) -> UnreadableJson:
    """Names the first integer that has more digits than Python computes with."""
    most = sys.get_int_max_str_digits()
    left: list[tuple[_Path, Any]] = [(None, content)]
    while left:
        path, value = left.pop()
        if isinstance(value, _Digits) and len(digits := value.lstrip("-")) > most:
            return UnreadableJson(
                f"is an integer of {len(digits):,} digits, {value[:_SHOWN]}…; at most {most:,} "
                "can be read",
                _dotted(path),
            )
        if isinstance(value, dict | list):
            members = value.items() if isinstance(value, dict) else enumerate(value)
            left += [((path, name), one) for name, one in reversed(list(members))]
    return UnreadableJson(f"has an integer of more than {most:,} digits")  # of a name given twice


def _dotted(path: _Path) -> str:
    names: list[str] = []
    while path is not None:
        path, name = path
        names.append(str(name)[:80])
    return ".".join(reversed(names))
