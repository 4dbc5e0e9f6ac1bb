"""Models of what files hold: JSON, TOML and YAML."""

import json
from typing import Any, Self

from pydantic import BaseModel, ConfigDict


class Plain(BaseModel):
    """What a file holds: frozen, without an unknown field, and no value is turned into another.

    A number in quotes is no number, and ``true`` is not 1; a list stands for a tuple.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    @classmethod
    def from_plain(cls, values: Any, where: object = None) -> Self:
        """The model of plain values; pydantic's ``ValidationError`` says which is at fault."""
        # Lists are tuples in JSON alone. What JSON lacks, such as a date, is a text in its place.
        return cls.model_validate_json(json.dumps(values, default=repr), context=where)
