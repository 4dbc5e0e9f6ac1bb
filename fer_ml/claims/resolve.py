"""Check every claim against the artifacts: value, status, and the lineage it rests on."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from decimal import Decimal, InvalidOperation
from fractions import Fraction
from typing import Any

from fer_ml.base.errors import FerError
from fer_ml.claims import formulas
from fer_ml.claims.model import (
    Claim,
    ClaimsFile,
    ComparisonClaim,
    ConfigurationClaim,
    FigureClaim,
    FormulaClaim,
    NonInferiorityClaim,
    NumberClaim,
    ProportionClaim,
    RangeClaim,
    SumClaim,
    TableClaim,
)
from fer_ml.claims.places import Evaluation, Source
from fer_ml.claims.pointers import resolve_pointer
from fer_ml.claims.printed import (
    Printed,
    exact,
    not_a_share,
    not_the_sum,
    of_count,
    printed,
    show,
    show_like,
)
from fer_ml.claims.resolved import Resolved, Status, Value
from fer_ml.claims.sentences import unbound
from fer_ml.claims.trace import Node, Tracer, walk
from fer_ml.claims.values import Nothing, Number, Reader, SourcedNumber, misfit
from fer_ml.metrics.comparability import comparable, unequal_budgets
from fer_ml.storage.artifact import Artifact
from fer_ml.storage.record import asset_label

BY_TEXT = "by arithmetic on the text's own numbers; it names no artifact"


@dataclass(frozen=True)
class _Judged:
    """The value of a claim, faults and sources; ``text`` prints a value that is not one number."""

    value: Value = None
    fault: str | None = None
    numbers: tuple[SourcedNumber, ...] = ()
    comparable: str | None = None
    text: str = ""


@dataclass
class Resolver:
    """Checks claims against one store; each artifact is verified and each file parsed once."""

    tracer: Tracer
    reader: Reader = field(default_factory=Reader)

    def all(self, claims_file: ClaimsFile) -> list[Resolved]:
        """Check every claim of a file, in its order."""
        done = {c.id: self.one(c) for c in claims_file.claims if not isinstance(c, ComparisonClaim)}
        for claim in claims_file.claims:
            if isinstance(claim, ComparisonClaim):
                done[claim.id] = compare(claim, done[claim.left], done[claim.right])
        for claim in claims_file.claims:
            done[claim.id] = _bound(_guarded(done[claim.id], done), claims_file.names)
        return [done[claim.id] for claim in claims_file.claims]

    def one(self, claim: Claim) -> Resolved:
        """Check one claim on its own against its artifacts and their lineage."""
        try:
            traces = self._traces(claim)
        except Nothing as error:
            return Resolved(claim, "ungrounded", str(error))
        except FerError as error:
            where = (error.where or "").removeprefix(str(self.tracer.store.root))  # Passed on.
            return Resolved(claim, "drifted", f"{error.what}: {where}".rstrip(": "))
        problem = _worst(traces)
        if problem is not None and problem[0] == "drifted":
            return Resolved(claim, *problem, None, traces, self._read(claim, traces))
        if not traces:
            return self._by_text(claim)
        try:
            judged = self._judge(claim)
            fault = judged.fault or self._evaluation(claim, judged)
        except Nothing as error:
            return Resolved(claim, "ungrounded", str(error), None, traces)
        status: tuple[Status, str] = ("grounded", "")
        if judged.comparable:
            status = ("not_comparable", judged.comparable)
        elif fault:
            status = ("contradicted", fault)
        elif problem is not None:
            status = problem
        return Resolved(claim, *status, judged.value, traces, judged.numbers, judged.text)

    def _read(self, claim: Claim, traces: Iterable[Node]) -> tuple[SourcedNumber, ...]:
        """Return the numbers of a claim with damaged lineage, if its own artifacts are whole."""
        with suppress(Nothing):
            if not any(node.drifted for node in traces):
                return self._judge(claim).numbers
        return ()

    def _traces(self, claim: Claim) -> tuple[Node, ...]:
        artifacts = {
            (source.asset, source.partition): self._artifact(source) for source in claim.sources()
        }
        return tuple(self.tracer.trace(artifact) for artifact in artifacts.values())

    def _artifact(self, source: Source) -> Artifact:
        artifact = self.tracer.current(source.asset, source.partition)
        if artifact is None:
            label = asset_label(source.asset, source.partition)
            known = self.tracer.store.home(source.asset).is_dir()
            what = "has not been made" if known else "is not known here: no such asset was made"
            raise Nothing(f"{label} {what}")
        return artifact

    def _by_text(self, claim: Claim) -> Resolved:
        """Check a claim without an artifact: only the consistency of its own numbers."""
        decided = isinstance(claim, ProportionClaim | SumClaim | RangeClaim)
        judged = self._judge(claim) if decided else _Judged()
        status: tuple[Status, str] | None = None
        if judged.fault:
            status = ("contradicted", judged.fault)
        elif decided:
            status = ("grounded", self._share(claim) + BY_TEXT)
        if status is not None:
            return Resolved(claim, *status, judged.value, text=judged.text)
        stated = getattr(claim, "expected", None)
        value = _plain(printed(stated).value) if isinstance(stated, str) else None
        return Resolved(claim, "ungrounded", "it names no artifact", value, text=_as_written(claim))

    def _share(self, claim: Claim) -> str:
        """Describe a printed share as k/n."""
        if not isinstance(claim, ProportionClaim):
            return ""
        _, n = self._operand(claim, claim.n)
        k = round(printed(str(claim.expected)).value * n.value)
        return f"{k}/{n.value} = {float(k / n.value):.9f}, "

    def _judge(self, claim: Claim) -> _Judged:
        judges: dict[type, Callable[[Any], _Judged]] = {
            NumberClaim: self._number,
            NonInferiorityClaim: self._non_inferiority,
            ProportionClaim: self._proportion,
            SumClaim: self._sum,
            RangeClaim: self._range,
            TableClaim: self._table,
            ConfigurationClaim: self._configuration,
            FormulaClaim: self._formula,
            FigureClaim: self._figure,
        }
        return judges[type(claim)](claim)

    def _find(self, source: Source) -> SourcedNumber:
        return self.reader.number(self._artifact(source), source)

    def _non_inferiority(self, claim: NonInferiorityClaim) -> _Judged:
        places = (claim.own_source(), claim.bound())
        number, bound = (self.reader.one(self._artifact(p), p) for p in places if p is not None)
        reached = exact(bound.value) * (-1 if claim.worse == "below" else 1)
        fault = _not_printed(_stated(claim, number), number.value)
        if reached >= printed(claim.margin).value:
            fault = f"its interval reaches to {bound.value:.12g}, beyond {claim.margin}"
        return _Judged(number.value, fault, (number, bound))

    def _own(
        self, claim: NumberClaim | NonInferiorityClaim | ProportionClaim | SumClaim
    ) -> tuple[SourcedNumber | None, Printed]:
        """Return the claim's own number and its exact value: the artifact's, or else as printed."""
        place = claim.own_source()
        if place is None:
            return None, printed(str(claim.expected))
        number = self._find(place)
        return number, Printed(str(number.value), exact(number.value), Fraction(0))

    def _operand(
        self, claim: ProportionClaim | SumClaim | RangeClaim, operand: str | Source
    ) -> tuple[SourcedNumber | None, Printed]:
        place = claim.place(operand)
        if place is None:
            assert isinstance(operand, str)
            return None, printed(operand)
        number = self._find(place)
        return number, Printed(str(number.value), exact(number.value), Fraction(0))

    def _number(self, claim: NumberClaim) -> _Judged:
        number, _ = self._own(claim)
        assert number is not None, "without an artifact a number is not judged"
        return _Judged(number.value, _not_printed(_stated(claim, number), number.value), (number,))

    def _proportion(self, claim: ProportionClaim) -> _Judged:
        number, share = self._own(claim)
        of, n = self._operand(claim, claim.n)
        fault = not_a_share(share.value, share.half, n.value)
        return self._with_own(claim, number, share, fault, [of])

    def _sum(self, claim: SumClaim) -> _Judged:
        number, total = self._own(claim)
        parts = [self._operand(claim, part) for part in claim.parts]
        fault = not_the_sum(
            total.value,
            of_count(total) if number is None else total.half,
            [(part.value, of_count(part)) for _, part in parts],
        )
        return self._with_own(claim, number, total, fault, [place for place, _ in parts])

    def _with_own(
        self,
        claim: ProportionClaim | SumClaim,
        number: SourcedNumber | None,
        figure: Printed,
        fault: str | None,
        others: Sequence[SourcedNumber | None],
    ) -> _Judged:
        if number is None:
            return _Judged(_plain(figure.value), fault, _present_numbers(others))
        differs = _not_printed(_stated(claim, number), number.value)
        return _Judged(number.value, differs or fault, _present_numbers([number, *others]))

    def _range(self, claim: RangeClaim) -> _Judged:
        places = [self._operand(claim, operand) for operand in claim.over]
        numbers = sorted(number.value for _, number in places)
        low, high = float(numbers[0]), float(numbers[-1])
        fault = None
        for name, wanted, now in (("lowest", claim.low, low), ("highest", claim.high, high)):
            if not printed(wanted).holds(now):
                fault = fault or f"the {name} is {now:.12g}, the claim says {wanted}"
        value: Value = {"low": low, "high": high}
        text = f"{show_like(low, claim.low)} to {show_like(high, claim.high)}"
        return _Judged(value, fault, _present_numbers([p for p, _ in places]), text=text)

    def _table(self, claim: TableClaim) -> _Judged:
        if not claim.rows:
            raise Nothing("its rows name no place in an artifact")
        value: dict[str, dict[str, Number]] = {}
        cells: list[SourcedNumber] = []
        fault, lines = None, []
        for row, operand in claim.rows.items():
            place = claim.place(operand)
            assert place is not None
            wanted = claim.expected.get(row, (None,) * len(claim.columns))
            value[row] = {}
            for (column, pointer), expected in zip(claim.columns.items(), wanted, strict=True):
                cell = self._find(place.model_copy(update={"pointer": place.pointer + pointer}))
                value[row][column] = cell.value
                cells.append(cell)
                differs = _not_printed(expected, cell.value)
                fault = fault or (differs and f"{row}, {column}: {differs}")
            shown = (
                show(n, claim.decimals) if e is None else show_like(n, e)
                for n, e in zip(value[row].values(), wanted, strict=True)
            )
            lines.append(_line(row, claim.columns, shown))
        return _Judged(
            value, fault, tuple(cells), _rows_apart(cells, claim.unequal_budgets), "; ".join(lines)
        )

    def _configuration(self, claim: ConfigurationClaim) -> _Judged:
        recipe = self._recipe(claim)
        for pointer, wanted in claim.settings.items():
            try:
                now = resolve_pointer(recipe, pointer)
            except KeyError as error:
                raise Nothing(f"the run's recipe has nothing at {pointer}") from error
            if not _is_setting(now, wanted):
                return _Judged(None, f"{pointer} is {_text(now)} in the run's recipe, not {wanted}")
        return _Judged(text=_as_written(claim))

    def _recipe(self, claim: Claim) -> dict[str, Any]:
        return self._whole(claim).record.recipe

    def _whole(self, claim: Claim) -> Artifact:
        return self._artifact(next(iter(claim.sources())))

    def _formula(self, claim: FormulaClaim) -> _Judged:
        formula = formulas.FORMULAS[claim.formula]
        try:
            recipe = resolve_pointer(self._recipe(claim), formula.recipe)
        except KeyError as error:
            raise Nothing(f"the run's recipe has nothing at {formula.recipe}") from error
        if recipe is None or recipe.get("kind", claim.formula) != claim.formula:
            return _Judged(None, f"the run's recipe has {_text(recipe and recipe['kind'])} there")
        values = {name: float(recipe[name]) for name in formula.settings}
        if formula.warm:
            values["T"] = self._temperature(claim, recipe["temperature"])
        symbols = {name: float(printed(text).value) for name, text in claim.symbols.items()}
        fault = formulas.differs(claim.expression(), formula, values, symbols)
        held_by = ", ".join(f"{name} = {value:g}" for name, value in values.items())
        return _Judged(None, fault, text=formula.expression + (held_by and f" with {held_by}"))

    def _temperature(self, claim: Claim, given: float | None) -> float:
        """Return T of the recipe, or else the one derived from the soft labels for this run."""
        if given is not None:
            return given
        place = Source(
            asset=str(claim.asset),
            partition=claim.partition,
            file="training.json",
            pointer="/kd_temperature",
        )
        return float(self._find(place).value)

    def _figure(self, claim: FigureClaim) -> _Judged:
        files = self._whole(claim).record.files
        if claim.file not in files:
            raise Nothing(f"the artifact has no file {claim.file}")
        now = files[str(claim.file)].sha256
        if claim.sha256 not in (None, now):
            return _Judged(None, f"the artifact's {claim.file} is {now[:12]}, another file")
        return _Judged(text=f"{claim.file} ({now[:12]})")

    def _evaluation(self, claim: Claim, judged: _Judged) -> str | None:
        """Say where the claim's evaluation set differs from its numbers', or return ``None``."""
        stated: Evaluation | None = getattr(claim, "evaluation", None)
        if stated is None:
            return None
        numbers = (
            judged.numbers if isinstance(claim, RangeClaim | TableClaim) else judged.numbers[:1]
        )
        return next((fault for number in numbers if (fault := misfit(number, stated))), None)


def compare(claim: ComparisonClaim, left: Resolved, right: Resolved) -> Resolved:
    """Compare two checked claims, if their numbers are comparable (``apart_by``)."""
    traces = tuple({node.identity: node for node in (*left.traces, *right.traces)}.values())
    apart = apart_by(left, right, claim.unequal_budgets)
    text = f"{left.shown()}, {claim.relation.replace('_', ' ')} {right.shown()}"
    if apart:
        return Resolved(claim, "not_comparable", apart, None, traces, text=text)
    bad = next((side for side in (left, right) if side.status != "grounded"), None)
    a, b = left.value, right.value
    value: Value = None
    if isinstance(a, int | float) and isinstance(b, int | float):
        value = {"left": a, "right": b}
        fault = _not_so(claim, exact(a) - exact(b), _half(left) + _half(right))
        if fault and (bad is None or bad.status != "drifted"):
            return Resolved(claim, "contradicted", fault, value, traces, text=text)
    if bad is not None:
        reason = f"{bad.claim.id}: {bad.reason}"
        return Resolved(claim, bad.status, reason, value, traces, text=text)
    return Resolved(claim, "grounded", "", value, traces, text=text)


def _half(side: Resolved) -> Fraction:
    """Return the error bound of one side: half a unit if only the text states it, else 0."""
    expected = getattr(side.claim, "expected", None)
    return Fraction(0) if side.numbers or expected is None else printed(expected).half


def _not_so(claim: ComparisonClaim, difference: Fraction, slack: Fraction) -> str | None:
    """Say how left minus right contradicts the claim, if it does so for every possible rounding."""
    holds = {
        "above": difference + slack > 0,
        "below": difference - slack < 0,
        "at_least": difference + slack >= 0,
        "at_most": difference - slack <= 0,
    }[claim.relation]
    if not holds:
        return f"{claim.left} minus {claim.right} is {float(difference):.12g}"
    if claim.by is not None:
        by = printed(claim.by)
        if abs(difference - by.value) > by.half + slack:
            return f"the difference is {float(difference):.12g}, the claim says {claim.by}"
    return None


def apart_by(left: Resolved, right: Resolved, unequal: bool) -> str | None:
    """Say why the numbers of two claims must not be compared, or return ``None``.

    Numbers of artifacts must be the benchmark's, whose entries state their evaluation set. Training
    budgets must be equal unless declared ``unequal``. Numbers that only the text states are
    compared by the evaluation sets that the two claims state.
    """
    if left.numbers and right.numbers:
        a, b = left.numbers[0].entry, right.numbers[0].entry
        if a is None or b is None:
            which = (left if a is None else right).claim.id
            return f"{which} is not an entry of the benchmark: it does not say what it compares to"
        return _apart({left.claim.id: a, right.claim.id: b}, unequal)
    stated = [getattr(side.claim, "evaluation", None) for side in (left, right)]
    if None in stated or stated[0] == stated[1]:
        return None
    one, other = (f"{e.manifest}, {e.split}, n = {e.n}" for e in stated if e is not None)
    return f"{left.claim.id} is of {one}; {right.claim.id} of {other}"


def _guarded(resolved: Resolved, done: dict[str, Resolved]) -> Resolved:
    """Compare a claim that holds with the claims that it declares comparable."""
    for other in getattr(resolved.claim, "comparable_with", ()):
        unequal = getattr(resolved.claim, "unequal_budgets", False)
        apart = apart_by(resolved, done[other], unequal)
        if apart is None and resolved.traces and not done[other].traces:
            apart = f"{other} has no artifact"
        if apart and resolved.status in ("grounded", "stale", "ungrounded"):
            return replace(resolved, status="not_comparable", reason=f"with {other}: {apart}")
    return resolved


def _bound(resolved: Resolved, names: tuple[str, ...]) -> Resolved:
    """Check the remaining numbers in the sentence of a claim that holds."""
    why = unbound(resolved.claim, names) if resolved.status == "grounded" else None
    return replace(resolved, status="ungrounded", reason=why) if why else resolved


def _as_written(claim: Claim) -> str:
    """Print the values of a claim's own fields."""
    match claim:
        case ConfigurationClaim():
            return claim.stated
        case FormulaClaim():
            stated = ", ".join(f"{name} = {text}" for name, text in claim.symbols.items())
            return claim.says + (stated and f" with {stated}")
        case TableClaim():
            return "; ".join(_line(r, claim.columns, cells) for r, cells in claim.expected.items())
        case FigureClaim():
            return str(claim.file)
    return ""


def _line(row: str, columns: Iterable[str], cells: Iterable[str]) -> str:
    pairs = ", ".join(f"{column} {cell}" for column, cell in zip(columns, cells, strict=True))
    return f"{row}: {pairs}"


def _rows_apart(cells: Sequence[SourcedNumber], unequal: bool) -> str | None:
    """Say why a table's rows must not share it: benchmark entries that are not comparable."""
    return _apart(
        {cell.source.pointer: cell.entry for cell in cells if cell.entry is not None}, unequal
    )


def _apart(entries: Mapping[str, Mapping[str, Any]], unequal: bool) -> str | None:
    first, *others = entries.values() or [{}]
    reasons = next((apart for entry in others if (apart := comparable(first, entry))), [])
    budgets = "" if unequal else unequal_budgets(entries)
    return "; ".join([*reasons, *([budgets] if budgets else [])]) or None


def _worst(traces: Iterable[Node]) -> tuple[Status, str] | None:
    worst: tuple[Status, str] | None = None
    for node in walk(traces):
        if node.problem is None:
            continue
        reason = f"{node.item.key}: {node.problem}"
        if node.drifted:
            return "drifted", reason
        worst = worst or ("stale", reason)
    return worst


def _stated(
    claim: NumberClaim | NonInferiorityClaim | ProportionClaim | SumClaim, at: SourcedNumber
) -> str | None:
    """Return the printed form of the claim's own number; ``None`` prints it unrounded."""
    if claim.expected is not None or claim.decimals is None:
        return claim.expected
    return show(at.value, claim.decimals)


def _not_printed(expected: str | None, value: Number) -> str | None:
    if expected is None or printed(expected).holds(value):
        return None
    return f"the artifact holds {value}, the claim says {expected}"


def _plain(value: Fraction) -> Number:
    return int(value) if value.denominator == 1 else float(value)


def _present_numbers(numbers: Sequence[SourcedNumber | None]) -> tuple[SourcedNumber, ...]:
    return tuple(one for one in numbers if one is not None)


def _is_setting(now: Any, wanted: str | None) -> bool:
    """Return whether a recipe's value equals the stated one; 2 and 2.0 are equal."""
    if isinstance(now, int | float) and not isinstance(now, bool) and wanted is not None:
        try:
            return Decimal(wanted) == Decimal(str(now))
        except InvalidOperation:
            return False
    return _text(now) == _text(wanted)


def _text(value: Any) -> str:
    """Format a recipe's value as YAML does."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return str(value)
