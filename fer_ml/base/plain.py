"""The base class of pydantic models for the contents of JSON, TOML and YAML files, and a type."""

import json
from datetime import date
from typing import Annotated, Any, Self

from pydantic import AfterValidator, BaseModel, ConfigDict


class Plain(BaseModel):
    """A strict model of a file's contents: frozen, no unknown field, no conversion of values.

    A number in quotes is refused, and ``true`` is not 1; a list is accepted for a tuple.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    @classmethod
    def from_plain(cls, values: Any, where: object = None) -> Self:
        """Build the model from plain values; pydantic's ``ValidationError`` names a wrong one."""
        # Lists are tuples in JSON alone. What JSON lacks, such as a date, is a text in its place.
        return cls.model_validate_json(json.dumps(values, default=repr), context=where)


def _day(text: str) -> str:
    if text != date.fromisoformat(text).isoformat():
        raise ValueError("a day is written YYYY-MM-DD")
    return text


#: A day that there is, as YYYY-MM-DD.
Day = Annotated[str, AfterValidator(_day)]
