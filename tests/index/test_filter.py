from __future__ import annotations

from typing import Any

import pytest

from fromage_index.errors import BadFilter
from fromage_index.filter import Filter

VALUES: list[Any] = ["dog", "cat", 1, 1.0, 2, 2.5, True, False, None, ["dog", 3], [], {"a": 1}]


def matching(want: Any) -> list[Any]:
    (condition,) = Filter.parse({"field": want}).conditions
    return [value for value in VALUES if condition.matches(value)]


def same(found: list[Any], want: list[Any]) -> bool:
    return [repr(value) for value in found] == [repr(value) for value in want]


@pytest.mark.parametrize(
    ("want", "found"),
    [
        ("dog", ["dog", ["dog", 3]]),
        (1, [1, 1.0]),
        (True, [True]),
        (None, [None]),
        (3, [["dog", 3]]),
        ({"in": ["cat", 2]}, ["cat", 2]),
        ({"in": []}, []),
        ({"in": [False, None]}, [False, None]),
        ({"gt": 1}, [2, 2.5, ["dog", 3]]),
        ({"gte": 1, "lt": 2.5}, [1, 1.0, 2]),
        ({"lte": 1}, [1, 1.0]),
        ({"gte": "cats"}, ["dog", ["dog", 3]]),
        ({"lt": float("inf")}, [1, 1.0, 2, 2.5, ["dog", 3]]),
    ],
)
def test_what_matches(want: Any, found: list[Any]) -> None:
    assert same(matching(want), found), matching(want)


@pytest.mark.parametrize(
    "want",
    [
        ["dog"],
        {},
        {"in": "dog"},
        {"in": [["dog"]]},
        {"in": ["dog"], "gt": 1},
        {"equals": 1},
        {"gt": None},
        {"gt": True},
        {"lt": [1]},
        {"lt": float("nan")},
    ],
)
def test_bad_filters_name_the_field(want: Any) -> None:
    with pytest.raises(BadFilter, match="'size'") as caught:
        Filter.parse({"colour": "red", "size": want})
    assert caught.value.field == "size"


def test_an_empty_name_is_no_field() -> None:
    with pytest.raises(BadFilter):
        Filter.parse({"": 1})
