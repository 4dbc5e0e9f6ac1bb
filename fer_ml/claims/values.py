"""Numbers read from artifacts, with their context: manifest, split, n, benchmark entry."""

import csv
import math
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from functools import cached_property
from pathlib import Path
from typing import Any

from fer_ml.base.errors import FerError
from fer_ml.base.reading import open_text, read_json
from fer_ml.claims.places import Evaluation, Source
from fer_ml.claims.pointers import walk_pointer
from fer_ml.metrics.comparability import KEYS
from fer_ml.storage.artifact import Artifact

Number = int | float


class Nothing(Exception):
    """Raised when a number does not exist (no such pointer, file or number): ungrounded."""


@dataclass(frozen=True)
class SourcedNumber:
    """A number, its source, and the JSON objects around it, nearest first."""

    value: Number
    artifact: Artifact
    source: Source
    around: tuple[Mapping[str, Any], ...]

    def says(self, key: str) -> Any:
        """Return the value of ``key`` in the nearest object around the number, or ``None``."""
        return next((mapping[key] for mapping in self.around if key in mapping), None)

    @cached_property
    def entry(self) -> Mapping[str, Any] | None:
        """The benchmark entry that contains the number, if it has every key for a comparison."""
        return next(
            (mapping for mapping in self.around if all(key in mapping for key in KEYS)), None
        )

    def measured_on(self) -> dict[str, Any]:
        """``manifest``, ``manifest_sha256``, ``split`` and ``n``, as far as the artifact says."""
        inputs = {item.key: item.sha256 for item in self.artifact.record.inputs}
        name, sha256 = self.says("manifest"), self.says("manifest_sha256")
        if not (isinstance(name, str) and name in inputs) and sha256 is not None:
            name = next((key for key, value in inputs.items() if value == sha256), name)
        return {
            "manifest": name,
            "manifest_sha256": sha256 if sha256 is not None else inputs.get(str(name)),
            "split": self.says("split"),
            "n": self.says("n"),
            **({"looked_before": looked} if (looked := self.says("looked_before")) else {}),
        }


def misfit(number: SourcedNumber, stated: Evaluation) -> str | None:
    """Say where a claim's evaluation set and the artifact's differ; ``Nothing`` if not stated."""
    measured = number.measured_on()
    for key, wanted in stated.model_dump().items():
        now = measured[key]
        if now is None:
            raise Nothing(f"the artifact does not say on which {key} it was measured")
        if str(now) != str(wanted):
            return f"the artifact was measured on {key} {now}, the claim says {wanted}"
    return None


class Reader:
    """Reads numbers; each file is parsed once."""

    def __init__(self) -> None:
        self._parsed: dict[Path, Any] = {}

    def number(self, artifact: Artifact, source: Source) -> SourcedNumber:
        """Return the number at ``source``; ``Nothing`` says why there is none."""
        if source.take is not None:
            return self._aggregate(artifact, source)
        try:
            path = walk_pointer(self.document(artifact, source.file), source.pointer)
        except KeyError as error:
            raise Nothing(f"{source.file} has nothing at {source.pointer}") from error
        value = path[-1]
        if isinstance(value, bool) or not isinstance(value, int | float) or not finite(value):
            raise Nothing(f"{source.file} has no number at {source.pointer}")
        return SourcedNumber(
            value, artifact, source, tuple(p for p in path[::-1] if isinstance(p, dict))
        )

    def one(self, artifact: Artifact, source: Source) -> SourcedNumber:
        """Return the number at ``source``; ``Nothing`` if several rows of a csv give it.

        The least ``difference`` and the least ``low`` may be of two rows.
        """
        if source.take is not None and (rows := len(self._rows(artifact, source))) > 1:
            raise Nothing(f"{rows} rows of {source.file} match, and the bound is that of one")
        return self.number(artifact, source)

    def document(self, artifact: Artifact, name: str) -> Any:
        """Return one parsed JSON file of an artifact."""
        path = _file(artifact, name)
        if path.suffix != ".json":
            raise Nothing(f"{name} is not JSON: a pointer needs a JSON file, take a csv")
        if path not in self._parsed:
            try:
                self._parsed[path] = read_json(path, root=artifact.folder)
            except FerError as error:
                raise Nothing(f"{name}: {error.what}") from error
        return self._parsed[path]

    def _aggregate(self, artifact: Artifact, source: Source) -> SourcedNumber:
        chosen = self._rows(artifact, source)
        value: Number = len(chosen)
        if source.take != "count":
            cells = [_cell(row, str(source.column), source.file) for row in chosen]
            if not cells:
                raise Nothing(f"no row of {source.file} matches")
            value = _aggregate(str(source.take), cells)
        columns = [key for key in (chosen[0] if chosen else {}) if isinstance(key, str)]
        alike = {key: chosen[0][key] for key in columns if len({row[key] for row in chosen}) == 1}
        return SourcedNumber(value, artifact, source, (alike, self._set_of(artifact, alike)))

    def _set_of(self, artifact: Artifact, row: Mapping[str, str]) -> dict[str, Any]:
        """Return what ``benchmark.json`` says of the evaluation set of rows of its csv files."""
        name = row.get("set")
        if name is None or "benchmark.json" not in artifact.record.files:
            return {}
        cells = self.document(artifact, "benchmark.json")["entries"].values()
        cell: Mapping[str, Any] = next((sets[name] for sets in cells if name in sets), {})
        return {key: cell[key] for key in ("manifest", "looked_before") if key in cell}

    def _rows(self, artifact: Artifact, source: Source) -> list[dict[str, str]]:
        path = _file(artifact, source.file)
        if path.suffix != ".csv":
            raise Nothing(f"{source.file} is not a csv: take needs one")
        if path not in self._parsed:
            try:
                with open_text(path, root=artifact.folder) as file:
                    reader = csv.DictReader(file, strict=True)
                    self._parsed[path] = (reader.fieldnames or [], list(reader))
            except (UnicodeDecodeError, csv.Error) as error:
                raise Nothing(f"{source.file} is not a csv: {error}") from error
        names, rows = self._parsed[path]
        for column in (*source.where, *([source.column] if source.column else [])):
            if column not in names:
                raise Nothing(f"{source.file} has no column {column!r}")
        return [r for r in rows if all(r[k] == (v or "") for k, v in source.where.items())]


def finite(value: Number) -> bool:
    """Return whether a JSON number is finite; an int too large for a float is not."""
    try:
        return math.isfinite(value)
    except OverflowError:
        return False


def _file(artifact: Artifact, name: str) -> Path:
    try:
        path = artifact.file(name)
    except FerError as error:
        raise Nothing(error.what) from error
    if not path.is_file():
        raise Nothing(f"{name} is not in this copy of {artifact.key}")
    return path


def _cell(row: Mapping[str, str], column: str, name: str) -> Decimal:
    try:
        value = Decimal(row[column])
    except (InvalidOperation, TypeError) as error:
        raise Nothing(f"{name}: {row[column]!r} in column {column} is no number") from error
    if not value.is_finite():
        raise Nothing(f"{name}: {row[column]!r} in column {column} is no number")
    return value


def _aggregate(take: str, cells: list[Decimal]) -> Number:
    total = sum(cells, Decimal(0))
    number = {"sum": total, "mean": total / len(cells), "min": min(cells), "max": max(cells)}[take]
    return int(number) if number == number.to_integral_value() else float(number)
