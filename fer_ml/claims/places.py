"""Types of a claims file for the source of a number and the data it was measured on."""

from typing import Annotated, Literal

from pydantic import ConfigDict, Field, WithJsonSchema, model_validator

from fer_ml.base.plain import Plain
from fer_ml.claims.printed import PRINTED

Id = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]*$", max_length=100)]
#: ``benchmark``, ``manifest/ferplus``: never a path that leaves the artifact root.
AssetName = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_]*(/[A-Za-z0-9][A-Za-z0-9_.-]*)?$")]
PartitionName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]
Pointer = Annotated[str, Field(pattern=r"^(/.*)?$")]
#: A number as it is printed. In YAML it may stand without quotes: its text is kept.
PrintedText = Annotated[
    str,
    Field(pattern=PRINTED),
    WithJsonSchema(
        {
            "anyOf": [{"type": "string", "pattern": PRINTED}, {"type": "number"}],
            "description": "as printed: 466,284 or 0.740 or 9.1%",
        }
    ),
]
#: Text in a YAML file whose plain scalars all are text.
Scalar = Annotated[str | None, WithJsonSchema({"type": ["string", "number", "boolean", "null"]})]
Whole = Annotated[int, WithJsonSchema({"type": "integer"})]
Flag = Annotated[bool, WithJsonSchema({"type": "boolean", "default": False})]


class FromYaml(Plain):
    """Base of the claims file's types; scalars are read as text: ``0.50`` keeps its last zero."""

    model_config = ConfigDict(strict=False)


class Source(FromYaml):
    """The source of a number: a JSON pointer (RFC 6901), or an aggregate of a csv column.

    ``take`` counts the rows that match ``where`` (column to text), or takes the sum, mean, min or
    max of their ``column``.
    """

    asset: AssetName
    partition: PartitionName | None = None
    file: Annotated[str, Field(min_length=1)]
    pointer: Pointer = ""
    take: Literal["count", "sum", "mean", "min", "max"] | None = None
    column: str | None = None
    where: dict[str, Scalar] = {}

    @model_validator(mode="after")
    def _one_way(self) -> "Source":
        check_way(self.take, self.pointer, self.column, bool(self.where))
        return self


def check_way(take: str | None, pointer: str, column: str | None, where: bool) -> None:
    """Raise ``ValueError`` unless exactly one way of reading is given: from JSON, or from a csv."""
    if take is None and (column is not None or where):
        raise ValueError("column and where go with take")
    if take is not None and pointer:
        raise ValueError("take reads a csv, pointer reads JSON: give one of them")
    if take is not None and (column is None) != (take == "count"):
        raise ValueError("take: count has no column, every other take has one")


#: A printed number, a pointer into the claim's own file, or a source of its own.
Operand = (
    Annotated[
        str,
        Field(pattern=f"^/|{PRINTED}"),
        WithJsonSchema(
            {
                "anyOf": [
                    {"type": "string", "pattern": f"^/|{PRINTED}"},
                    {"type": "number"},
                ],
                "description": "a printed number, or a pointer into the claim's own file",
            }
        ),
    ]
    | Source
)
#: The same for a row of a table, which no number can be.
RowPlace = Annotated[str, Field(pattern=r"^/")] | Source


class Evaluation(FromYaml):
    """The evaluation set that a claim states for its number; compared with the artifact's."""

    manifest: str
    split: Literal["train", "val", "calib", "test"]
    n: Annotated[Whole, Field(ge=1)]
