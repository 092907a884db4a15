"""Metadata filters: {"field": value | {"in": [...]} | {"gte": ..., "lt": ...}}.

All fields must match. A list in the metadata matches by its members. Numbers equal numbers
(1 is 1.0) and nothing else; ranges compare numbers with numbers and strings with strings.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from fromage_index.errors import BadFilter

Scalar = str | int | float | bool | None

_RANGE: dict[str, Callable[[Any, Any], bool]] = {
    "gt": operator.gt,
    "gte": operator.ge,
    "lt": operator.lt,
    "lte": operator.le,
}
_FORMS = 'write a value, {"in": [values]} or a range of "gt", "gte", "lt", "lte"'


@dataclass(frozen=True)
class Condition:
    """What one field must satisfy: a member of `values`, or every one of `bounds`."""

    field: str
    values: frozenset[tuple[str, Scalar]] | None
    bounds: tuple[tuple[str, float | str], ...] = ()

    def matches(self, value: Any) -> bool:
        members = value if isinstance(value, list) else [value]
        return any(self._matches_one(member) for member in members)

    def _matches_one(self, member: Any) -> bool:
        if not _is_scalar(member):
            return False
        kind, comparable = _comparable(member)
        if self.values is not None:
            return (kind, comparable) in self.values
        return all(
            _comparable(bound)[0] == kind and _RANGE[name](comparable, bound)
            for name, bound in self.bounds
        )


@dataclass(frozen=True)
class Filter:
    """Conditions that must all hold."""

    conditions: tuple[Condition, ...]

    @classmethod
    def parse(cls, spec: Mapping[str, Any]) -> Filter:
        """Raises BadFilter, which names the field."""
        return cls(tuple(_condition(field, want) for field, want in spec.items()))

    def matches(self, metadata: Mapping[str, Any]) -> bool:
        return all(
            condition.matches(metadata.get(condition.field)) for condition in self.conditions
        )


def _condition(field: str, want: Any) -> Condition:
    if not isinstance(field, str) or not field:
        raise BadFilter(str(field), "a field name is a string")
    if _is_scalar(want):
        return Condition(field, frozenset([_value(field, want)]))
    if isinstance(want, Mapping) and set(want) == {"in"}:
        if not isinstance(want["in"], list):
            raise BadFilter(field, '"in" takes a list of values')
        return Condition(field, frozenset(_value(field, value) for value in want["in"]))
    if isinstance(want, Mapping) and want and set(want) <= set(_RANGE):
        return Condition(field, None, tuple((name, _bound(field, b)) for name, b in want.items()))
    raise BadFilter(field, f"{_short(want)} is no condition; {_FORMS}")


def _value(field: str, value: Any) -> tuple[str, Scalar]:
    if not _is_scalar(value):
        raise BadFilter(
            field, f"{_short(value)} is no value; use a string, number, boolean or null"
        )
    return _comparable(value)


def _bound(field: str, bound: Any) -> float | str:
    if isinstance(bound, bool) or not isinstance(bound, str | int | float):
        raise BadFilter(field, f"a range ends at a number or a string, not at {_short(bound)}")
    if isinstance(bound, float) and math.isnan(bound):
        raise BadFilter(field, "a range cannot end at NaN")
    return bound


def _short(value: Any) -> str:
    if isinstance(value, str | int | float):
        return repr(value if not isinstance(value, str) else value[:80])
    return f"a {type(value).__name__}"


def _is_scalar(value: Any) -> bool:
    return value is None or isinstance(value, str | int | float | bool)


def _comparable(value: Scalar) -> tuple[str, Scalar]:
    """The value with its kind, so that True is not 1."""
    if isinstance(value, bool):
        return "boolean", value
    if isinstance(value, int | float):
        return "number", value
    return ("null" if value is None else "string"), value
