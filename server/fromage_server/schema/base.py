"""What every body has in common."""

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, FailFast


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
