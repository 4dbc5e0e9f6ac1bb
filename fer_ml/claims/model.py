"""The claims file: sentences of a report, typed by kind, checked at the door.

Its guide is ``docs/claims.md``; ``claims/schema.json`` is made from these types.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, WithJsonSchema, model_validator

from fer_ml.base.errors import FerError
from fer_ml.base.plain_yaml import read_plain
from fer_ml.base.reading import read_file
from fer_ml.base.versions import upgraded
from fer_ml.claims.formulas import FORMULAS, Expression, parse
from fer_ml.claims.places import (
    AssetName,
    Evaluation,
    Flag,
    FromYaml,
    Id,
    Operand,
    PartitionName,
    Pointer,
    PrintedText,
    RowPlace,
    Scalar,
    Source,
    Whole,
    check_way,
)
from fer_ml.claims.printed import printed
from fer_ml.storage.record import asset_label

MAX_BYTES = 2_000_000
GUIDE = "docs/claims.md"

#: A name with digits: ``FER2013``, ``ResNet-18``. It begins with a letter, and is no number.
NAME = r"^[A-Za-z][A-Za-z-]*([0-9]{1,4}[A-Za-z-]+)*[0-9]{1,4}[A-Za-z-]*$"


class _Claim(FromYaml):
    """A sentence, where it stands in the text, and the artifact that it rests on.

    Without ``asset`` the claim is decided from the text alone, as far as that goes.
    """

    id: Id
    sentence: Annotated[
        str,
        Field(min_length=1),
        WithJsonSchema({"type": "string", "pattern": r"\{value\}"}),
    ]
    section: str | None = None
    asset: AssetName | None = None
    partition: PartitionName | None = None

    @model_validator(mode="after")
    def _partition(self) -> "_Claim":
        if self.partition is not None and self.asset is None:
            raise ValueError("partition goes with an asset")
        return self

    @property
    def assets(self) -> frozenset[str]:
        """Every asset that it cites."""
        return frozenset(source.asset for source in self.sources())

    def sources(self) -> Iterator[Source]:
        """Every source that it cites; of a claim on a whole artifact, with no file."""
        if self.asset is not None:
            yield Source(asset=self.asset, partition=self.partition, file=RECORD)


#: Stands for the artifact as a whole, where a claim cites none of its files.
RECORD = "record.json"


class Measured(_Claim):
    """A claim on numbers: where its own one stands, what it was measured on, what it may meet.

    ``unequal_budgets`` says that models of different epochs stand beside each other on purpose.
    """

    file: Annotated[str, Field(min_length=1)] | None = None
    pointer: Pointer = ""
    take: Literal["count", "sum", "mean", "min", "max"] | None = None
    column: str | None = None
    where: dict[str, Scalar] = {}
    evaluation: Evaluation | None = None
    comparable_with: tuple[Id, ...] = ()
    unequal_budgets: Flag = False

    @model_validator(mode="after")
    def _whole_source(self) -> "Measured":
        check_way(self.take, self.pointer, self.column, bool(self.where))
        if (self.file is None) != (self.asset is None):
            raise ValueError("asset and file go together")
        if self.file is None and (self.pointer or self.take):
            raise ValueError("pointer and take go with an asset and a file")
        return self

    def operands(self) -> tuple[str | Source, ...]:
        """The other numbers that it is made of."""
        return ()

    def place(self, operand: str | Source) -> Source | None:
        """Where an operand stands; ``None`` for a printed number."""
        if isinstance(operand, Source):
            return operand
        if not operand.startswith("/"):
            return None
        if self.asset is None or self.file is None:
            raise ValueError(f"pointer {operand} needs the claim's asset and file")
        return Source(asset=self.asset, partition=self.partition, file=self.file, pointer=operand)

    def own_source(self) -> Source | None:
        """Where its own number stands."""
        if self.asset is None or self.file is None:
            return None
        return Source(
            asset=self.asset,
            partition=self.partition,
            file=self.file,
            pointer=self.pointer,
            take=self.take,
            column=self.column,
            where=self.where,
        )

    def sources(self) -> Iterator[Source]:
        """Every source that it cites."""
        places = (self.own_source(), *(self.place(operand) for operand in self.operands()))
        yield from (place for place in places if place is not None)

    @model_validator(mode="after")
    def _places(self) -> "Measured":
        for operand in self.operands():
            self.place(operand)
        pointers = [o for o in self.operands() if isinstance(o, str) and o.startswith("/")]
        if self.asset is not None and self.own_source() is None and not pointers:
            raise ValueError("no pointer reads the claim's asset and file")
        return self


class _Printed(Measured):
    """A claim on one number.

    ``expected`` is the number as printed; the artifact's must round to it. Without it the claim
    states what the artifact holds, shown with ``decimals``.
    """

    expected: PrintedText | None = None
    decimals: Annotated[Whole, Field(ge=0, le=12)] | None = None

    @model_validator(mode="after")
    def _precision(self) -> "_Printed":
        if self.expected is None and self.asset is None:
            raise ValueError("a claim without an asset needs what the text prints, as expected")
        if self.expected is not None and self.decimals is not None:
            raise ValueError("decimals goes with a claim without expected, which has its own")
        return self


class NumberClaim(_Printed):
    """The artifact's number rounds to ``expected``. With ``decimals`` the claim prints it."""

    kind: Literal["number"]


class NonInferiorityClaim(_Printed):
    """The number is a ``difference``, and its confidence bound is within ``margin``.

    The bound is ``low`` where ``worse`` is ``below``, and else ``high``; it stands beside the
    ``difference`` of a comparison or of a row of ``pairs.csv``. Without an interval the claim is
    ungrounded.
    """

    kind: Literal["non_inferiority"]
    margin: PrintedText
    worse: Literal["below", "above"]

    @model_validator(mode="after")
    def _difference(self) -> "NonInferiorityClaim":
        if self.asset is None:
            raise ValueError("non-inferiority rests on an asset, which has the interval")
        if not (self.pointer.endswith("/difference") or self.column == "difference"):
            raise ValueError("its pointer ends with /difference, or its column is difference")
        if printed(self.margin).value <= 0:
            raise ValueError("the margin is above zero")
        return self

    def bound(self) -> Source:
        """Where the bound of its difference stands that decides it."""
        place, name = self.own_source(), "low" if self.worse == "below" else "high"
        assert place is not None
        if place.take is not None:
            return place.model_copy(update={"column": name})
        return place.model_copy(update={"pointer": place.pointer.removesuffix("difference") + name})


class ProportionClaim(_Printed):
    """As ``number``; the number is also k/n for a whole number k."""

    kind: Literal["proportion"]
    n: Operand

    def operands(self) -> tuple[str | Source, ...]:
        """Its n."""
        return (self.n,)


class SumClaim(_Printed):
    """As ``number``; ``parts`` also add up to it. Rounded decimals may differ by their rounding."""

    kind: Literal["sum"]
    parts: Annotated[tuple[Operand, ...], Field(min_length=1)]

    def operands(self) -> tuple[str | Source, ...]:
        """Its parts."""
        return self.parts


class RangeClaim(Measured):
    """The smallest number of ``over`` rounds to ``low``, and the largest to ``high``."""

    kind: Literal["range"]
    over: Annotated[tuple[Operand, ...], Field(min_length=1)]
    low: PrintedText
    high: PrintedText

    def operands(self) -> tuple[str | Source, ...]:
        """The numbers that it spans."""
        return self.over

    @model_validator(mode="after")
    def _in_order(self) -> "RangeClaim":
        if printed(self.low).value > printed(self.high).value:
            raise ValueError(f"low {self.low} is above high {self.high}")
        return self

    def own_source(self) -> Source | None:
        """It has no number of its own: ``asset`` and ``file`` are those of its pointers."""
        return None


class TableClaim(Measured):
    """Every cell rounds to the one expected.

    ``rows`` maps a label to a place, ``columns`` a label to a pointer; a cell is at its row's place
    followed by its column's pointer. ``expected`` maps a row to its cells as printed. Rows that are
    benchmark entries must be comparable.
    """

    kind: Literal["table"]
    rows: dict[str, RowPlace] = {}
    columns: Annotated[dict[str, Pointer], Field(min_length=1)]
    expected: dict[str, tuple[PrintedText, ...]] = {}
    decimals: Annotated[Whole, Field(ge=0, le=12)] = 3

    @model_validator(mode="after")
    def _shape(self) -> "TableClaim":
        if not self.rows and not self.expected:
            raise ValueError("a table needs rows, or what the text prints, as expected")
        if self.rows and self.expected and list(self.rows) != list(self.expected):
            raise ValueError("expected has other rows than rows")
        for label, cells in self.expected.items():
            if len(cells) != len(self.columns):
                raise ValueError(f"row {label} has {len(cells)} cells, {len(self.columns)} columns")
        return self

    def operands(self) -> tuple[str | Source, ...]:
        """The places of its rows."""
        return tuple(self.rows.values())

    def own_source(self) -> Source | None:
        """It has no number of its own: ``asset`` and ``file`` are those of its pointers."""
        return None


class ConfigurationClaim(_Claim):
    """Each value of ``settings`` (pointer to value) equals that in the recipe of the run."""

    kind: Literal["configuration"]
    settings: Annotated[dict[Pointer, Scalar], Field(min_length=1)]

    @property
    def stated(self) -> str:
        """Settings by their last names, or by their whole pointers where two have the same one."""
        names = {pointer: pointer.rsplit("/", 1)[-1] for pointer in self.settings}
        if len(set(names.values())) < len(names):
            names = {pointer: pointer for pointer in self.settings}
        stated = [
            f"{names[pointer]} not set" if text is None else f"{names[pointer]} = {text}"
            for pointer, text in self.settings.items()
        ]
        return " and ".join(filter(None, (", ".join(stated[:-1]), stated[-1])))


class FormulaClaim(_Claim):
    """``says`` states what the run's code computes.

    It is written with the names of the formula (``docs/claims.md``) and its own ``symbols``.
    """

    kind: Literal["formula"]
    formula: Annotated[str, WithJsonSchema({"enum": list(FORMULAS)})]
    says: Annotated[str, Field(max_length=500)]
    symbols: dict[str, PrintedText] = {}

    @model_validator(mode="after")
    def _known(self) -> "FormulaClaim":
        if self.formula not in FORMULAS:
            raise ValueError(f"unknown formula {self.formula!r}: {', '.join(FORMULAS)}")
        terms = sorted(set(self.symbols) & set(FORMULAS[self.formula].terms))
        if terms:
            raise ValueError(f"{', '.join(terms)} is a term of the formula and has no number")
        self.expression()
        return self

    def expression(self) -> Expression:
        """``says``, parsed."""
        return parse(self.says, {*FORMULAS[self.formula].names(), *self.symbols})


class FigureClaim(_Claim):
    """The artifact has this file, with the hash ``sha256``."""

    kind: Literal["figure"]
    file: Annotated[str, Field(min_length=1)] | None = None
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = None

    @model_validator(mode="after")
    def _file(self) -> "FigureClaim":
        if (self.file is None) != (self.asset is None):
            raise ValueError("asset and file go together")
        return self


class ComparisonClaim(_Claim):
    """The claims ``left`` and ``right`` are grounded and comparable, and the relation holds.

    Left minus right rounds to ``by``.
    """

    kind: Literal["comparison"]
    left: Id
    right: Id
    relation: Literal["above", "below", "at_least", "at_most"]
    by: PrintedText | None = None
    unequal_budgets: Flag = False

    @model_validator(mode="after")
    def _no_asset(self) -> "ComparisonClaim":
        if self.asset is not None:
            raise ValueError("a comparison rests on its two claims and names no asset")
        return self


Claim = Annotated[
    NumberClaim
    | NonInferiorityClaim
    | ProportionClaim
    | SumClaim
    | RangeClaim
    | TableClaim
    | ConfigurationClaim
    | FormulaClaim
    | FigureClaim
    | ComparisonClaim,
    Field(discriminator="kind"),
]


class ClaimsFile(FromYaml):
    """``claims/<profile>.yaml``. ``names`` are words with digits that its sentences may use."""

    version: Annotated[Literal["2"], WithJsonSchema({"const": 2})]
    title: str
    names: tuple[Annotated[str, Field(pattern=NAME)], ...] = ()
    claims: Annotated[tuple[Claim, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _ids(self) -> "ClaimsFile":
        seen: set[str] = set()
        twice = sorted({c.id for c in self.claims if c.id in seen or seen.add(c.id)})  # type: ignore[func-returns-value]
        if twice:
            raise ValueError(f"ids stand twice: {', '.join(twice)}")
        single = {c.id for c in self.claims if isinstance(c, _Printed)}
        for claim in self.claims:
            for other in _partners(claim):
                if other not in single or other == claim.id:
                    raise ValueError(
                        f"{claim.id} is held against {other!r}, which is not another claim of one "
                        "number (number, proportion or sum)"
                    )
        return self

    @property
    def cited(self) -> frozenset[str]:
        """Every ``asset`` or ``asset[partition]`` that a claim cites."""
        return frozenset(
            asset_label(source.asset, source.partition)
            for claim in self.claims
            for source in claim.sources()
        )

    def picked(self, *names: str) -> "ClaimsFile":
        """The claims of these ids with those that they are held against, and theirs."""
        claims = {claim.id: claim for claim in self.claims}
        wanted = set(names)
        if unknown := sorted(wanted - set(claims)):
            raise FerError(
                f"unknown claim {unknown[0]}", code="unknown-claim", allowed=", ".join(claims)
            )
        while more := {o for key in wanted for o in _partners(claims[key])} - wanted:
            wanted |= more
        return self.model_copy(
            update={"claims": tuple(claim for claim in self.claims if claim.id in wanted)}
        )


def _partners(claim: Claim) -> tuple[str, ...]:
    if isinstance(claim, ComparisonClaim):
        return (claim.left, claim.right)
    return claim.comparable_with if isinstance(claim, Measured) else ()


def read_claims(path: Path) -> ClaimsFile:
    """Read and check a claims file; ``FerError`` names the claim and field."""
    document = _read(path)
    if "version" not in document:
        raise FerError(
            "the claims file states no version",
            code="missing-claims-version",
            where=path,
            fix="begin it with: version: 2",
        )
    try:
        document = upgraded("claims", document, path, "version")
        document["version"] = str(document["version"])
    except (KeyError, TypeError, AttributeError, ArithmeticError, ValueError) as error:
        raise FerError(
            f"the claims file is not valid in version 1: {error}",
            code="invalid-claims-file",
            where=path,
        ) from error
    try:
        return ClaimsFile.model_validate(document)
    except ValidationError as error:
        first = error.errors()[0]
        raise FerError(
            f"{_place(document, first['loc'])}{first['msg'].removeprefix('Value error, ')}",
            code="invalid-claims-file",
            where=path,
            allowed=f"see {GUIDE}, or let an editor check it with claims/schema.json",
        ) from error


def _read(path: Path) -> dict[str, Any]:
    try:
        data = read_file(path, MAX_BYTES)
    except OSError as error:
        raise FerError(
            f"the claims file cannot be read: {error.strerror}",
            code="unreadable-file",
            where=path,
            fix="write claims/<profile>.yaml; claims/sample.yaml is an example",
        ) from error
    try:
        document = read_plain(data)
    except ValueError as error:
        raise FerError(
            f"the claims file is not valid YAML: {error}", code="invalid-claims-file", where=path
        ) from error
    if not isinstance(document, dict):
        raise FerError(
            "the claims file is not a mapping of keys to values",
            code="invalid-claims-file",
            where=path,
            allowed="version, title, claims",
        )
    return document


def _place(document: dict[str, Any], loc: tuple[int | str, ...]) -> str:
    """``claims.3 (student-ce) expected: `` for a fault's place; the kind says nothing new there."""
    if len(loc) < 2 or loc[0] != "claims":
        return f"{'.'.join(map(str, loc))}: " if loc else ""
    number, rest = int(loc[1]), loc[3:]
    named = document["claims"][number]
    name = named.get("id") if isinstance(named, dict) else None
    return f"claims.{number} ({name}) {'.'.join(map(str, rest))}: "


def schema() -> dict[str, Any]:
    """The JSON schema of a claims file, for editors."""
    made = ClaimsFile.model_json_schema()
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **made}
