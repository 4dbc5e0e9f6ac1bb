"""Access to the benchmark's results; the only module of the report that knows its keys."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from fer_ml.base.errors import FerError
from fer_ml.metrics.comparability import split_tables
from fer_ml.metrics.resampling import holm

Entry = Mapping[str, Any]

#: Column, part of the entry, key.
METRICS: tuple[tuple[str, str, str], ...] = (
    ("accuracy", "raw", "accuracy"),
    ("macro-F1", "raw", "macro_f1"),
    ("NLL raw", "raw", "nll"),
    ("NLL scaled", "temperature_scaled", "nll"),
    ("ECE raw", "raw", "ece"),
    ("ECE scaled", "temperature_scaled", "ece"),
)
#: Of a profile that shows vector scalings as well.
VECTOR_METRICS: tuple[tuple[str, str, str], ...] = (
    ("NLL vector", "vector_scaled", "nll"),
    ("ECE vector", "vector_scaled", "ece"),
)

PAIRS_FILE = "pairs.csv"


@dataclass(frozen=True)
class Results:
    """Models whose numbers may share one table, and the reason they are apart from the others.

    ``apart`` is empty for the first table of a set.
    """

    name: str
    entries: Mapping[str, Entry]
    apart: tuple[str, ...]

    @property
    def first(self) -> Entry:
        """Any entry; the data it was measured on are the same for the whole table."""
        return next(iter(self.entries.values()))

    @property
    def pointers(self) -> dict[str, str]:
        """The JSON pointer of each model's entry in the benchmark."""
        return {model: f"/entries/{model}/{self.name}" for model in self.entries}

    @property
    def metrics(self) -> tuple[tuple[str, str, str], ...]:
        """The columns of the table; the scalings are those in the benchmark."""
        return METRICS + VECTOR_METRICS * ("vector_scaled" in self.first)


def results_of(benchmark: Mapping[str, Any], name: str) -> list[Results]:
    """Return the tables of one evaluation set, a separate one for models not comparable."""
    entries = {model: sets[name] for model, sets in benchmark["entries"].items() if name in sets}
    if not entries:
        known = dict.fromkeys(name for sets in benchmark["entries"].values() for name in sets)
        raise FerError(
            f"the benchmark has no test set {name!r}",
            code="unknown-test-set",
            allowed=", ".join(known),
        )
    return [
        Results(name, {model: entries[model] for model in table.names}, table.why_apart)
        for table in split_tables(entries)
    ]


def interval_of(entry: Entry, part: str, metric: str) -> tuple[float, float] | None:
    """Return the confidence interval of a metric, or ``None`` if the benchmark has none."""
    interval = entry.get("intervals", {}).get(part, {}).get(metric)
    return None if interval is None else (interval["low"], interval["high"])


def paired_with(
    pairs: Iterable[Mapping[str, str]], name: str, to: str
) -> dict[str, dict[str, dict[str, float]]]:
    """Return differences by model and metric: model minus ``to``, ``low``, ``high``, McNemar's p.

    ``pairs`` are rows of ``pairs.csv``, in which each pair of models occurs once, in either order.
    ``mcnemar_p_holm`` is corrected for the number of models found.
    """
    by_model: dict[str, dict[str, dict[str, float]]] = {}
    for pair in pairs:
        if pair["set"] != name or to not in (pair["model_a"], pair["model_b"]):
            continue
        difference, low, high = (float(pair[key]) for key in ("difference", "low", "high"))
        model = pair["model_a"]
        if model == to:
            model, difference, low, high = pair["model_b"], -difference, -high, -low
        by_model.setdefault(model, {})[pair["metric"]] = {
            "difference": difference,
            "low": low,
            "high": high,
            "mcnemar_p": float(pair["mcnemar_p"]),
        }
    for metric in dict.fromkeys(metric for gaps in by_model.values() for metric in gaps):
        shown = [gaps[metric] for gaps in by_model.values() if metric in gaps]
        for gap, p in zip(shown, holm([gap["mcnemar_p"] for gap in shown]), strict=True):
            gap["mcnemar_p_holm"] = p
    return by_model
