"""What every body has in common."""

from pydantic import BaseModel, ConfigDict


class RequestModel(BaseModel):
    """Unknown keys, wrong types (no "1" for 1) and NaN are refused."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class AnswerModel(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
