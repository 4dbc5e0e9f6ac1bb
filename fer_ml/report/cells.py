"""Cells of the report's tables: values as Markdown, and the rows of benchmark tables."""

import csv
import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from fer_ml.base.errors import FerError
from fer_ml.base.labels import CLASSES
from fer_ml.base.reading import open_text
from fer_ml.claims import printed as numbers
from fer_ml.claims.pointers import pointer_token, resolve_pointer
from fer_ml.metrics.comparability import look_note
from fer_ml.report.markdown import Markdown, code, escape, table
from fer_ml.report.results import Results, interval_of

#: Metrics shown with their interval. With those of all metrics the table would be unreadable; the
#: csv of the benchmark has them.
WITH_INTERVAL = frozenset({"accuracy", "macro_f1"})


def claim_text(claim: Mapping[str, Any]) -> Markdown:
    """Return the value of a claim as Markdown, as the report prints it."""
    if "shown" in claim:
        return escape(claim["shown"])
    value = claim["value"]
    if isinstance(value, int | float) and not isinstance(value, bool):
        return Markdown(f"{value:,.{claim['decimals']}f}")
    return Markdown("?") if value is None else escape(value)


def looked_mark(around: Iterable[Any], value: Any = 0.0) -> Markdown:
    """Return the mark of a fraction if the objects around it say 'looked at before'; else nothing.

    Whole numbers are counts, which no decision could have raised.
    """
    told = any(look_note(each) for each in around if isinstance(each, Mapping))
    return Markdown(" (looked at before)" * (told and isinstance(value, float)))


def shown_value(value: Any, decimals: int | None, where: str) -> Markdown:
    """Return a value of a JSON file as Markdown; ``decimals`` applies to floats only.

    Raises ``FerError`` for a float without ``decimals`` or with too few of them, for a boolean, an
    object and a list. ``where`` names the value in the message.
    """
    if value is None:
        return Markdown("not measured")
    if isinstance(value, str):
        return escape(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise FerError(
            f"{where} is neither a number nor a text",
            code="value-not-printable",
            fix="print a number or a text of the file",
        )
    if isinstance(value, int):
        return Markdown(f"{value:,}")
    if decimals is None:
        raise FerError(
            f"{where} is a fraction",
            code="missing-decimals",
            fix="say how many decimals to print: decimals=3",
        )
    shown = f"{value:,.{decimals}f}"
    if not decimals and math.isfinite(value) and not numbers.printed(shown).holds(value):
        raise FerError(
            f"{where} is {value:g}, which would be printed as {shown}",
            code="too-few-decimals",
            fix="print more decimals",
        )
    return Markdown(shown)


def words(status: str) -> Markdown:
    """Return the status of a claim as Markdown, with spaces for underscores."""
    return escape(status.replace("_", " "))


def number_of(text: str) -> float | None:
    """Return the finite number in a cell of a csv, or ``None`` if it holds none."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def cell(text: str, decimals: int | None) -> str:
    """Format a cell of a csv; ``decimals`` applies to numbers with a decimal point only."""
    value = number_of(text)
    if value is None or decimals is None or "." not in text:
        return escape(text)
    return f"{value:,.{decimals}f}"


def linked(text: str, address: str) -> Markdown:
    """Return ``text`` (Markdown) as a link to ``address``."""
    return Markdown(f"[{text}]({address})")


def benchmark_numbers(results: Results, show: str) -> Iterator[tuple[str, str]]:
    """Yield the JSON pointer and the printed text of each number in a benchmark table.

    ``show`` chooses the table: ``metrics``, ``classes``, or else sources.
    """
    for model, entry in results.entries.items():
        for tail, text in _numbers(results, entry, show):
            yield results.pointers[model] + tail, text


def _numbers(results: Results, entry: Mapping[str, Any], show: str) -> Iterator[tuple[str, str]]:
    if show == "metrics":
        for _, part, key in results.metrics:
            yield f"/{part}/{key}", f3(entry[part][key])
        yield "/temperature", f3(entry["temperature"])
    elif show == "classes":
        for label in CLASSES:
            yield f"/raw/per_class_f1/{label}", f3(entry["raw"]["per_class_f1"][label])
    else:
        for name, figures in entry["by_source"].items():
            yield f"/by_source/{pointer_token(name)}/macro_f1", f3(figures["macro_f1"])
            yield f"/by_source/{pointer_token(name)}/n", f"{figures['n']:,}"


def comparison_numbers(comparison: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the JSON pointer and the printed text of each number in the table of a comparison."""
    yield "/runs", str(comparison["runs"])
    for arm, metrics in comparison["arms"].items():
        yield f"/arms/{arm}/macro_f1/mean", f"{metrics['macro_f1']['mean']:z.3f}"
        for metric in ("accuracy", "nll", "ece"):
            yield f"/arms/{arm}/{metric}/mean", f3(metrics[metric]["mean"])
    gaps = {f"/against_baseline/{arm}": gap for arm, gap in comparison["against_baseline"].items()}
    gaps |= {f"/steps/{place}": step for place, step in enumerate(comparison["steps"])}
    for pointer, gap in gaps.items():
        yield f"{pointer}/macro_f1/difference", f"{gap['macro_f1']['difference']:z.3f}"


def benchmark_rows(results: Results, show: str, pages: Mapping[str, str]) -> Markdown:
    """Return the table of one evaluation set: by metric, by class or by source (``show``).

    ``pages`` maps each model to the address of the page with its numbers.
    """
    entries = results.entries
    names = {model: linked(code(model), pages[model]) for model in entries}
    if show == "metrics":
        header = ["model", *(name for name, _, _ in results.metrics), "ECE by chance", "T"]
        rows = [
            [
                names[model],
                *(_metric(e, part, key) for _, part, key in results.metrics),
                _by_chance(e),
                f3(e["temperature"]),
            ]
            for model, e in entries.items()
        ]
    elif show == "classes":
        header = ["F1 of class", *names.values()]
        rows = [
            [label, *(f3(e["raw"]["per_class_f1"][label]) for e in entries.values())]
            for label in CLASSES
        ]
    else:
        header = ["macro-F1 on", linked("n", next(iter(pages.values()))), *names.values()]
        rows = [
            [code(name), f"{figures['n']:,}", *_by_source(entries.values(), name)]
            for name, figures in results.first["by_source"].items()
        ]
    return table(header, rows, range(1, len(header)))


def _by_source(entries: Any, name: str) -> list[str]:
    return [f3(entry["by_source"][name]["macro_f1"]) for entry in entries]


def _metric(entry: Mapping[str, Any], part: str, key: str) -> str:
    interval = interval_of(entry, part, key) if key in WITH_INTERVAL else None
    shown = f3(entry[part][key])
    return shown if interval is None else f"{shown} ({interval[0]:.3f} to {interval[1]:.3f})"


def _by_chance(entry: Mapping[str, Any]) -> str:
    """Return the cell of the ECE expected by chance; ``-`` for a benchmark that lacks it."""
    chance = entry.get("ece_by_chance")
    return "-" if chance is None else f"{chance['mean']:.3f} ({chance['high']:.3f})"


def bounded(figure: Mapping[str, Any], key: str) -> str:
    """Format a figure with its confidence interval, where it has one."""
    if figure["low"] is None:
        return f"{figure[key]:z.3f}"
    return f"{figure[key]:z.3f} ({figure['low']:z.3f} to {figure['high']:z.3f})"


def tested(gap: Mapping[str, Any]) -> str:
    """Format a difference of a comparison with its interval and corrected p, or why it has none."""
    shown = bounded(gap, "difference")
    if gap["p_holm"] is None:
        return f"{shown}, {escape(gap['verdict'])}"
    return f"{shown}, p {p_value(gap['p_holm'])}"


def p_value(value: float) -> Markdown:
    """Format a p value with three decimals."""
    return escape("below 0.001" if value < 0.001 else f"{value:.3f}")


def f3(value: float | None) -> str:
    """Format a figure with three decimals, ``-`` for ``None``."""
    return "-" if value is None else f"{value:.3f}"


def objects_at(
    document: Any, pointer: str, columns: Sequence[str] | None, where: str
) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """Return the objects by name at a JSON pointer, and the names of the fields to show."""
    try:
        held = resolve_pointer(document, pointer)
    except KeyError as error:
        raise FerError(
            f"{where} does not exist", code="unknown-pointer", fix="correct the pointer"
        ) from error
    if not isinstance(held, dict) or not all(isinstance(o, dict) for o in held.values()):
        raise FerError(
            f"{where} does not hold objects by name",
            code="not-a-table",
            fix="let the pointer lead to objects by name",
        )
    return held, _columns(
        columns, dict.fromkeys(key for row in held.values() for key in row), where
    )


def rows_of(
    path: Path, columns: Sequence[str] | None, most: int | None
) -> tuple[list[str], list[list[str]], int]:
    """Return a csv's columns to show, its first ``most`` rows, and the number of further rows."""
    with open_text(path) as lines:
        reader = csv.DictReader(lines)
        names = _columns(columns, reader.fieldnames or (), path.name)
        held = [[row[name] or "" for name in names] for row in itertools.islice(reader, most)]
        return names, held, sum(1 for _ in reader)


def _columns(wanted: Sequence[str] | None, known: Iterable[str], where: str) -> list[str]:
    known = list(known)
    if unknown := [name for name in wanted or () if name not in known]:
        raise FerError(
            f"{where} has no column {unknown[0]!r}",
            code="unknown-column",
            allowed=", ".join(known),
        )
    return list(wanted or known)
