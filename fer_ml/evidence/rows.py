"""Find the rows behind a claim's number, and the formula that computes it from them.

The pages recompute each formula in the browser (``evidence.js``) and compare the result with the
number stored in the artifact.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fer_ml.base.labels import CLASSES
from fer_ml.claims.model import ComparisonClaim, TableClaim
from fer_ml.claims.printed import show, show_like
from fer_ml.claims.resolved import Resolved
from fer_ml.claims.values import Number, SourcedNumber
from fer_ml.recipes.profile import VAL_SET
from fer_ml.storage.artifact import Artifact
from fer_ml.storage.store import Store

#: Metrics that rows of predictions give, with what each is.
METRICS: Mapping[str, str] = {
    "accuracy": "the share of rows whose largest logit is the label's",
    "macro_f1": "the mean of the F1 of the seven classes",
    "per_class_f1": "2 x hits / (rows of the class + rows called so)",
    "balanced_accuracy": "the mean recall of the classes that are there",
    "nll": "the mean of -log(probability of the label), in nats",
    "brier": "the mean of the summed squared error of the probabilities",
    "ece": "calibration error of the top probability in 15 bins of equal width",
    "adaptive_ece": "calibration error of the top probability in 15 bins of equal mass",
    "classwise_ece": "the mean calibration error of each class's probability",
    "aurc": "the mean risk of the rows that are at least as sure",
    "augrc": "the area under coverage x risk",
    "coverage_at_risk": "the largest share of rows, surest first, with at most this risk",
}
#: Key figures that a log of frames gives alone.
KPIS = (
    *("frames", "faces", "tracks", "face_found_rate", "frames_timed", "processed_fps"),
    *("frame_ms_mean", "frame_ms_p50", "frame_ms_p95", "frame_ms_p99"),
    *("track_seconds", "flips_raw", "flips_stabilised"),
    *("flips_per_minute_raw", "flips_per_minute_stabilised"),
    *("unsure_share", "too_small_share", "unstable_share"),
)
SCALINGS = ("raw", "temperature_scaled", "vector_scaled")


@dataclass(frozen=True)
class Rows:
    """Rows of an artifact's csv whose cells equal the texts of ``where``.

    ``unlabelled`` keeps only rows whose label is not one of the seven classes.
    """

    artifact: Artifact
    file: str
    where: Mapping[str, str] = field(default_factory=dict, hash=False)
    unlabelled: bool = False


@dataclass(frozen=True)
class Term:
    """Rows and, for logits, the scaling: ``logits * weights / temperature + bias``."""

    rows: Rows
    temperature: float = 1.0
    weights: tuple[float, ...] = ()
    bias: tuple[float, ...] = ()


@dataclass(frozen=True)
class Formula:
    """How a number is computed from rows.

    - ``take`` ``count``, ``sum``, ``mean``, ``min`` or ``max``: of the column ``key``, over all
      rows of ``plus``
    - ``metric``: the mean over ``plus`` of the metric ``key``, less that over ``minus``
    - ``kpi``: the key figure ``key`` of a session's frames
    """

    take: str
    plus: tuple[Term, ...]
    key: str = ""
    minus: tuple[Term, ...] = ()

    def words(self) -> str:
        """The computation in words."""
        if self.take == "metric":
            what = METRICS[self.key.partition("/")[0]]
            runs = len(self.plus)
            mean = f", as the mean over {runs} runs" if runs > 1 else ""
            return f"{self.key}: {what}{mean}{', less that of the other' if self.minus else ''}"
        if self.take == "kpi":
            return f"{self.key} of the session's frames"
        return "the number of rows" if self.take == "count" else f"{self.take} of {self.key}"


@dataclass(frozen=True)
class Figure:
    """One number of a claim and its source; ``why`` says why it cannot be computed from rows."""

    name: str
    printed: str
    number: SourcedNumber
    formula: Formula | None
    why: str
    interval: tuple[Number, Number] | None = None

    @property
    def terms(self) -> tuple[Term, ...]:
        """Every term of the computation."""
        return (*self.formula.plus, *self.formula.minus) if self.formula else ()


@dataclass(frozen=True)
class Evidence:
    """A claim with its numbers; ``why`` says why it has none."""

    resolved: Resolved
    figures: tuple[Figure, ...]
    why: str = ""

    @property
    def rows(self) -> tuple[Rows, ...]:
        """Each table of rows once, in the order of the numbers."""
        by_file = {
            (t.rows.artifact.sha256, t.rows.file): t.rows for f in self.figures for t in f.terms
        }
        return tuple(by_file.values())

    def files(self) -> Iterator[tuple[Artifact, str]]:
        """Yield every file that is read, each once: the numbers' files, then those of the rows."""
        cited = [(f.number.artifact, f.number.source.file) for f in self.figures]
        rows = [(rows.artifact, rows.file) for rows in self.rows]
        seen = set()
        for artifact, name in (*cited, *rows):
            if (key := (artifact.folder, name)) not in seen:
                seen.add(key)
                yield artifact, name


def evidence_of(store: Store, claims: Sequence[Resolved]) -> dict[str, Evidence]:
    """Return the evidence of each claim by id; a comparison has the numbers of both sides."""
    origins = Origins(store)
    figures = {r.claim.id: tuple(_figures(origins, r)) for r in claims}
    for resolved in claims:
        claim = resolved.claim
        if isinstance(claim, ComparisonClaim):
            figures[claim.id] = (*figures[claim.left][:1], *figures[claim.right][:1])
    return {
        r.claim.id: Evidence(r, figures[r.claim.id], _why_none(r, figures[r.claim.id]))
        for r in claims
    }


def _why_none(resolved: Resolved, figures: Sequence[Figure]) -> str:
    if figures:
        return ""
    if resolved.status != "grounded":
        return f"No number is shown: {resolved.reason}."
    return {
        "configuration": "It rests on the recipe in the run's record, which has no rows.",
        "formula": "It rests on the formula that the code computes, which has no rows.",
        "figure": "It rests on a file, byte for byte, which has no rows.",
    }.get(resolved.claim.kind, "It rests on the text's own numbers.")


def _figures(origins: "Origins", resolved: Resolved) -> Iterator[Figure]:
    claim = resolved.claim
    names, prints = [claim.id], [] if resolved.value is None else [resolved.shown()]
    if isinstance(claim, TableClaim):
        rows = [f"{row}, " if len(claim.rows) > 1 else "" for row in claim.rows]
        names = [row + column for row in rows for column in claim.columns]
        cells = [cell for row in claim.rows for cell in claim.expected.get(row, ())]
        prints = [
            show_like(number.value, cells[i]) if cells else show(number.value, claim.decimals)
            for i, number in enumerate(resolved.numbers)
        ]
    elif claim.kind == "range":
        names = prints = []
    for place, number in enumerate(resolved.numbers):
        formula, why = None, ""
        try:
            formula = origins.formula(number)
        except NoRows as none:
            why = str(none)
        pointer = number.source.pointer or number.source.file
        yield Figure(
            names[place] if place < len(names) else pointer.rpartition("/")[2],
            prints[place] if place < len(prints) else f"{number.value:,.12g}",
            number,
            formula,
            why,
            interval_of(number),
        )


def interval_of(number: SourcedNumber) -> tuple[Number, Number] | None:
    """Return the confidence interval that the artifact stores for a number, or ``None``."""
    tokens = _tokens(number)
    if number.entry is not None and tokens[3:4] and tokens[3] in SCALINGS:
        metric = "_".join(tokens[4:]).removeprefix("per_class_")
        bounds = number.entry.get("intervals", {}).get(tokens[3], {}).get(metric, {})
    else:
        bounds = number.around[0] if tokens[-1:] in (["difference"], ["mean"]) else {}
    low, high = bounds.get("low"), bounds.get("high")
    both = isinstance(low, int | float) and isinstance(high, int | float)
    return (low, high) if both else None


class NoRows(Exception):
    """Raised with the reason why a number cannot be computed from rows."""


class Origins:
    """Finds the rows of numbers by the file that contains the number."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._documents: dict[tuple[str, str], Any] = {}
        self._known: dict[str, Callable[[SourcedNumber, list[str]], Formula]] = {
            "benchmark.json": self._benchmark,
            "reliabilitymetrics.json": self._training,
            "comparison.json": self._comparison,
            "clean_report.json": self._cleaning,
            "curation.json": self._curation,
            "demo_kpis.json": self._session,
            "card.json": self._card,
            "selection.json": self._selection,
        }

    def formula(self, number: SourcedNumber) -> Formula:
        """Return the formula of a number; ``NoRows`` when there is none."""
        source, artifact = number.source, number.artifact
        if source.file == "pairs.csv" and source.column == "difference":
            return self._pair(number)
        if source.take is not None:
            where = {column: text or "" for column, text in source.where.items()}
            rows = Rows(artifact, source.file, where)
            return Formula(source.take, (Term(rows),), source.column or "")
        validated = source.file.startswith("manifest_validation_")
        known = self._validation if validated else self._known.get(source.file)
        if known is None:
            raise NoRows(f"{source.file} states it; no rows of {artifact.key} give it.")
        try:
            return known(number, _tokens(number))
        except (KeyError, IndexError, ValueError, TypeError) as error:
            raise NoRows(f"{source.file} does not say of which rows it is.") from error

    def _document(self, artifact: Artifact, name: str) -> Any:
        key = (artifact.sha256, name)
        if key not in self._documents:
            self._documents[key] = artifact.read_json(name)
        return self._documents[key]

    def _input(self, artifact: Artifact, asset: str) -> Artifact:
        """Return the input ``asset`` of an artifact."""
        for item in artifact.record.inputs:
            if item.asset == asset:
                input_artifact = self._store.find(item.asset, item.partition, item.sha256)
                if input_artifact is not None:
                    return input_artifact
        raise NoRows(f"the {asset} that it was made of is not here.")

    def _benchmark(self, number: SourcedNumber, tokens: list[str]) -> Formula:
        if number.entry is None or len(tokens) < 4:
            raise NoRows("the benchmark states it; it is computed from no rows.")
        model, name, *rest = tokens[1:]
        rows = _csv(number.artifact, f"predictions/{model}__{name}.csv")
        match rest:
            case ["n"]:
                return Formula("count", (Term(rows),))
            case [scaling, *metric] if scaling in SCALINGS:
                return _metric(metric, self._scaled(number, model, scaling, rows))
            case ["by_source", value, "n"]:
                return Formula("count", (Term(_where(rows, source=value)),))
            case ["by_source", value, *metric]:
                return _metric(metric, Term(_where(rows, source=value)))
            case ["by", "source", "rows", place, *metric]:
                value = number.entry["by"]["source"]["rows"][int(place)]["value"]
                part = Term(_where(rows, source=value), number.entry["temperature"])
                return _metric(metric[1:], part) if metric != ["n"] else Formula("count", (part,))
            case ["intervals", *_]:
                raise NoRows("an interval, from resamples by group with numpy's generator.")
        raise NoRows(f"the benchmark states {'/'.join(rest)}; no rows of predictions give it.")

    def _scaled(self, number: SourcedNumber, model: str, scaling: str, rows: Rows) -> Term:
        if scaling == "vector_scaled":
            calibration = self._document(number.artifact, f"calibration/{model}.json")
            weights, bias = (
                tuple(calibration[k][name] for name in CLASSES) for k in ("weights", "bias")
            )
            return Term(rows, 1.0, weights, bias)
        assert number.entry is not None
        return Term(rows, number.entry["temperature"] if scaling == "temperature_scaled" else 1.0)

    def _training(self, number: SourcedNumber, tokens: list[str]) -> Formula:
        report = self._document(number.artifact, number.source.file)
        rows = _csv(number.artifact, f"predictions_{report['split']}.csv")
        if tokens[-1:] == ["n"]:
            return Formula("count", (Term(rows),))
        scaled = report["temperature_scaled"] if tokens[0] == "temperature_scaled" else {}
        if tokens[0] not in SCALINGS or scaled.get("mode", "global") != "global":
            raise NoRows("the run states it; no rows of predictions give it.")
        return _metric(tokens[1:], Term(rows, scaled.get("global_temperature", 1.0)))

    def _comparison(self, number: SourcedNumber, tokens: list[str]) -> Formula:
        comparison = self._document(number.artifact, "comparison.json")

        def runs(arm: str) -> tuple[Term, ...]:
            return tuple(run(name) for name in comparison["arms"][arm]["experiments"])

        def run(name: str) -> Term:
            rows = _csv(number.artifact, f"predictions/{name}.csv")
            return Term(rows, comparison["experiments"][name]["temperature"])

        match tokens:
            case ["n"]:
                return Formula("count", (next(iter(runs(comparison["baseline"]))),))
            case ["experiments", name, metric]:
                return _metric([metric], run(name))
            case ["arms", arm, metric, "mean"]:
                return _metric([metric], *runs(arm))
            case ["against_baseline", arm, metric, "difference"]:
                return _metric([metric], *runs(arm), minus=runs(comparison["baseline"]))
            case ["steps", place, metric, "difference"]:
                step = comparison["steps"][int(place)]
                return _metric([metric], *runs(step["arm"]), minus=runs(step["before"]))
        raise NoRows("the comparison states it, from resamples of runs and faces.")

    def _pair(self, number: SourcedNumber) -> Formula:
        """Return the formula of the difference of two benchmark models on the same rows."""
        row = number.around[0]
        if not {"set", "model_a", "model_b", "metric"} <= set(row):
            raise NoRows("several rows of pairs.csv are meant.")
        entries = self._document(number.artifact, "benchmark.json")["entries"]

        def side(model: str) -> Term:
            rows = _csv(number.artifact, f"predictions/{model}__{row['set']}.csv")
            return Term(rows, entries[model][row["set"]]["temperature"])

        return _metric([row["metric"]], side(row["model_a"]), minus=(side(row["model_b"]),))

    def _cleaning(self, number: SourcedNumber, tokens: list[str]) -> Formula:
        artifact = number.artifact
        match tokens:
            case ["manifest", part]:
                manifest_name = manifest_file(artifact)
                whole = (manifest_name, "quarantine.csv")
                return _count(
                    artifact,
                    {"rows": (manifest_name,), "rows_quarantined": whole[1:], "rows_in": whole},
                    part,
                )
            case ["manifest", "counts", place, "rows"]:
                counts = self._document(artifact, "clean_report.json")["manifest"]["counts"]
                rows = Rows(
                    artifact, manifest_file(artifact), {"source": counts[int(place)]["source"]}
                )
                return Formula("count", (Term(rows),))
            case ["reports", place, *rest]:
                report = self._document(artifact, "clean_report.json")["reports"][int(place)]
                if not artifact.record.asset.startswith("manifest/"):
                    artifact = self._input(artifact, f"manifest/{report['source']}")
                kept = manifest_file(artifact)
                named: dict[str, tuple[str, ...]] = {
                    "rows_kept": (kept,),
                    "rows_excluded": ("excluded.csv",),
                    "rows_quarantined": ("quarantine.csv",),
                    "rows_in": (kept, "excluded.csv", "quarantine.csv"),
                }
                if rest[:1] == ["splits"] and len(rest) == 3:
                    rows = Rows(artifact, kept, {"split": rest[1], "label": rest[2]})
                    return Formula("count", (Term(rows),))
                return _count(artifact, named, "/".join(rest))
        raise NoRows("the cleaning states it; it counted more than rows that are here.")

    def _curation(self, number: SourcedNumber, tokens: list[str]) -> Formula:
        return _count(
            number.artifact, {"rows": (manifest_file(number.artifact),)}, "/".join(tokens)
        )

    def _validation(self, number: SourcedNumber, tokens: list[str]) -> Formula:
        name = self._document(number.artifact, number.source.file)["manifest"]
        inputs = (
            self._store.find(i.asset, i.partition, i.sha256) for i in number.artifact.record.inputs
        )
        manifest = next((a for a in inputs if a is not None and name in a.record.files), None)
        if manifest is None:
            raise NoRows(f"the manifest that was judged, {name}, is not here.")
        match tokens:
            case ["rows_total"]:
                return Formula("count", (Term(Rows(manifest, name)),))
            case ["bad_labels"]:
                return Formula("count", (Term(Rows(manifest, name, unlabelled=True)),))
            case ["counts", "by_source", source]:
                return Formula("count", (Term(Rows(manifest, name, {"source": source})),))
        raise NoRows("found by looking at each image, as `fer validate` does; no page can.")

    def _card(self, number: SourcedNumber, tokens: list[str]) -> Formula:
        """Return the formula of a figure on a student's card, which repeats the benchmark's."""
        card = self._document(number.artifact, "card.json")
        match tokens:
            case ["metrics", name, *metric]:
                rows = self._of_benchmark(number.artifact, card["name"], name)
                if metric == ["n"]:
                    return Formula("count", (Term(rows),))
                if metric == ["ece_scaled"]:
                    return _metric(["ece"], Term(rows, card["temperature"]))
                return _metric(metric, Term(rows))
        raise NoRows("the card states it; no rows of predictions give it.")

    def _selection(self, number: SourcedNumber, tokens: list[str]) -> Formula:
        match tokens:
            case ["candidates", model, "val_macro_f1"]:
                rows = self._of_benchmark(number.artifact, model, VAL_SET)
                return _metric(["macro_f1"], Term(rows))
        raise NoRows("the selection states it, from more than rows of predictions.")

    def _of_benchmark(self, artifact: Artifact, model: str, name: str) -> Rows:
        benchmark = self._input(artifact, "benchmark")
        return _csv(benchmark, f"predictions/{model}__{name}.csv")

    def _session(self, number: SourcedNumber, tokens: list[str]) -> Formula:
        if tokens[0] not in KPIS:
            raise NoRows("`fer demo score` computes it, from the frames and more than them.")
        frames = _csv(self._input(number.artifact, "demo_session"), "per_frame.csv")
        return Formula("kpi", (Term(frames),), tokens[0])


def manifest_file(artifact: Artifact) -> str:
    """Return the csv of a manifest: the one with a parquet copy beside it."""
    files = artifact.record.files
    named = [n for n in files if n.endswith(".csv") and n.removesuffix("csv") + "parquet" in files]
    if not named:
        raise NoRows(f"{artifact.key} holds no manifest.")
    return named[0]


def is_whole(artifact: Artifact, name: str) -> bool:
    """Return whether a file of an artifact exists with the length in its record."""
    path, entry = artifact.folder / name, artifact.record.files.get(name)
    return entry is not None and path.is_file() and path.stat().st_size == entry.bytes


def _csv(artifact: Artifact, name: str) -> Rows:
    if name not in artifact.record.files:
        raise NoRows(f"{artifact.key} kept no {name}.")
    if not is_whole(artifact, name):
        raise NoRows(f"{name} of {artifact.key} is not what its record says.")
    return Rows(artifact, name)


def _where(rows: Rows, **where: str) -> Rows:
    return Rows(rows.artifact, rows.file, where)


def _metric(path: Sequence[str], *plus: Term, minus: tuple[Term, ...] = ()) -> Formula:
    if not path or path[0] not in METRICS:
        raise NoRows(f"{'/'.join(path)} is not computed from rows of predictions alone.")
    return Formula("metric", plus, "/".join(path), minus)


def _count(artifact: Artifact, named: Mapping[str, tuple[str, ...]], part: str) -> Formula:
    if part not in named:
        raise NoRows(f"{part} was counted when it was made, of more than the rows that are here.")
    return Formula("count", tuple(Term(_csv(artifact, name)) for name in named[part]))


def _tokens(number: SourcedNumber) -> list[str]:
    return [t.replace("~1", "/").replace("~0", "~") for t in number.source.pointer.split("/")[1:]]
