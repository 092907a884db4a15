"""What every body has in common."""

import json
from collections.abc import Callable
from typing import Annotated, Any, Final

from pydantic import AfterValidator, BaseModel, ConfigDict, FailFast
from pydantic_core import PydanticCustomError

UNSUPPORTED: Final = "unsupported"


class RequestModel(BaseModel):
    """Unknown keys, wrong types (no "1" for 1) and NaN are refused."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


# A list stops at its first wrong element: one report per element of a hostile body is a lot.
class _StopAtFirst(FailFast):
    __hash__ = object.__hash__  # a part of a union has to be hashable


STOP_AT_FIRST = _StopAtFirst()


class AnswerModel(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


def _encodable(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"character {error.start} is half of a surrogate pair, which is no character"
        ) from None
    return text


# JSON can spell lone surrogates; tokenizers cannot take them.
Text = Annotated[str, AfterValidator(_encodable)]


def only(*values: Any, why: str) -> Callable[[Any], Any]:
    """A check for a field that cannot be followed: the values that change nothing are taken, others
    are an error of the type UNSUPPORTED that says ``why``."""
    told = f" or be {' or '.join(json.dumps(value) for value in values)}" if values else ""

    def check(value: Any) -> Any:
        if value not in values:
            raise PydanticCustomError(UNSUPPORTED, f"{why}; it has to be left out{told}")
        return value

    return check


def without_nulls(value: object) -> object:
    """For a `before` validator, where a client sends null for what it leaves out."""
    if isinstance(value, dict):
        return {key: item for key, item in value.items() if item is not None}
    return value
