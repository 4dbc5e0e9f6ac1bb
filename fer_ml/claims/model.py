"""The claims file: typed sentences of a report, validated when they are read.

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
    """A sentence, its place in the text, and the artifact that it cites.

    A claim without ``asset`` is checked against the text alone, as far as that is possible.
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
        """Every asset that the claim cites."""
        return frozenset(source.asset for source in self.sources())

    def sources(self) -> Iterator[Source]:
        """Yield every source that the claim cites, without file for a whole artifact."""
        if self.asset is not None:
            yield Source(asset=self.asset, partition=self.partition, file=RECORD)


#: Stands for the artifact as a whole, where a claim cites none of its files.
RECORD = "record.json"


class Measured(_Claim):
    """A claim on numbers: their source, their evaluation set, and claims to compare with.

    ``unequal_budgets`` says that models trained for different epochs are compared on purpose.
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
        """The other numbers from which the claim's number is computed."""
        return ()

    def place(self, operand: str | Source) -> Source | None:
        """Return the source of an operand; ``None`` for a printed number."""
        if isinstance(operand, Source):
            return operand
        if not operand.startswith("/"):
            return None
        if self.asset is None or self.file is None:
            raise ValueError(f"pointer {operand} needs the claim's asset and file")
        return Source(asset=self.asset, partition=self.partition, file=self.file, pointer=operand)

    def own_source(self) -> Source | None:
        """The source of the claim's own number."""
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
        """Yield every source that the claim cites."""
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

    ``expected`` is the number as printed, to which the artifact's number must round. Without it the
    claim states the artifact's number, shown with ``decimals``.
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
    """The number is a ``difference`` whose confidence bound lies within ``margin``.

    The bound is ``low`` if ``worse`` is ``below``, else ``high``. It stands beside the
    ``difference`` in a comparison or in a row of ``pairs.csv``. Without an interval the claim is
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
        """The source of the confidence bound that decides the claim."""
        place, name = self.own_source(), "low" if self.worse == "below" else "high"
        assert place is not None
        if place.take is not None:
            return place.model_copy(update={"column": name})
        return place.model_copy(update={"pointer": place.pointer.removesuffix("difference") + name})


class ProportionClaim(_Printed):
    """Like ``number``; the number must also be k/n for a whole number k."""

    kind: Literal["proportion"]
    n: Operand

    def operands(self) -> tuple[str | Source, ...]:
        """The n of the proportion."""
        return (self.n,)


class SumClaim(_Printed):
    """Like ``number``; ``parts`` must also add up to it, up to the rounding of printed decimals."""

    kind: Literal["sum"]
    parts: Annotated[tuple[Operand, ...], Field(min_length=1)]

    def operands(self) -> tuple[str | Source, ...]:
        """The parts of the sum."""
        return self.parts


class RangeClaim(Measured):
    """The smallest number of ``over`` rounds to ``low``, and the largest to ``high``."""

    kind: Literal["range"]
    over: Annotated[tuple[Operand, ...], Field(min_length=1)]
    low: PrintedText
    high: PrintedText

    def operands(self) -> tuple[str | Source, ...]:
        """The numbers whose range is stated."""
        return self.over

    @model_validator(mode="after")
    def _in_order(self) -> "RangeClaim":
        if printed(self.low).value > printed(self.high).value:
            raise ValueError(f"low {self.low} is above high {self.high}")
        return self

    def own_source(self) -> Source | None:
        """Return ``None``: ``asset`` and ``file`` only complete the pointers of ``over``."""
        return None


class TableClaim(Measured):
    """Every cell of a table rounds to the expected one.

    ``rows`` maps a label to a place, ``columns`` a label to a pointer. A cell is at its row's place
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
        """The places of the table's rows."""
        return tuple(self.rows.values())

    def own_source(self) -> Source | None:
        """Return ``None``: ``asset`` and ``file`` only complete the pointers of the cells."""
        return None


class ConfigurationClaim(_Claim):
    """Each value of ``settings`` (pointer to value) equals that in the recipe of the run."""

    kind: Literal["configuration"]
    settings: Annotated[dict[Pointer, Scalar], Field(min_length=1)]

    @property
    def stated(self) -> str:
        """The settings by their last names, or by whole pointers where two last names are equal."""
        names = {pointer: pointer.rsplit("/", 1)[-1] for pointer in self.settings}
        if len(set(names.values())) < len(names):
            names = {pointer: pointer for pointer in self.settings}
        stated = [
            f"{names[pointer]} not set" if text is None else f"{names[pointer]} = {text}"
            for pointer, text in self.settings.items()
        ]
        return " and ".join(filter(None, (", ".join(stated[:-1]), stated[-1])))


class FormulaClaim(_Claim):
    """The formula ``says`` equals the one that the run's code computes.

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
        """The parsed formula ``says``."""
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

    Left minus right must round to ``by``.
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
    """``claims/<profile>.yaml``. ``names`` lists words with digits that sentences may contain."""

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
        """Return the claims with these ids and, recursively, the claims they are compared with."""
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
    """Read and validate a claims file; ``FerError`` names the claim and the field at fault."""
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
    """Return the place of a fault, ``claims.3 (student-ce) expected: ``, without the kind."""
    if len(loc) < 2 or loc[0] != "claims":
        return f"{'.'.join(map(str, loc))}: " if loc else ""
    number, rest = int(loc[1]), loc[3:]
    named = document["claims"][number]
    name = named.get("id") if isinstance(named, dict) else None
    return f"claims.{number} ({name}) {'.'.join(map(str, rest))}: "


def schema() -> dict[str, Any]:
    """Return the JSON schema of a claims file, for editors."""
    made = ClaimsFile.model_json_schema()
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **made}
