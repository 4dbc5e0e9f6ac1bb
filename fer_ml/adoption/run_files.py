"""The files of a run of the first pipeline, each parsed into its type."""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from pydantic import BaseModel, ConfigDict

from fer_ml.adoption.folder import parse_as, parse_json
from fer_ml.base.errors import FerError
from fer_ml.base.labels import CLASSES
from fer_ml.base.reading import as_text


class _Foreign(BaseModel):
    """A file of another program: known keys are type-checked, other keys ignored."""

    model_config = ConfigDict(frozen=True, strict=True, extra="allow")


class Metrics(_Foreign):
    """Metrics of one set of predictions, as stored."""

    accuracy: float | None = None
    macro_f1: float | None = None
    per_class_f1: dict[str, float] | list[float] | None = None
    nll: float | None = None
    ece: float | None = None
    brier: float | None = None
    global_temperature: float | None = None
    mode: str | None = None
    n: int | None = None


class Reliability(_Foreign):
    """``reliabilitymetrics.json``."""

    epoch: int | None = None
    n: int | None = None
    raw: Metrics
    temperature_scaled: Metrics | None = None
    checkpoint_sha256: str | None = None


class Calibration(_Foreign):
    """``calibration.json``."""

    epoch: int | None = None
    mode: str | None = None
    global_temperature: float | None = None


class Entry(_Foreign):
    """One epoch of ``history.json``; teachers write ``train``, students ``train_loss``."""

    epoch: int
    val: dict[str, Any] | None = None
    eval: dict[str, Any] | None = None
    negl: dict[str, Any] | None = None
    train_loss: float | None = None

    @property
    def measured(self) -> bool:
        """Whether val was measured in this epoch; otherwise the figures are an earlier epoch's."""
        return self.val is not None and (self.eval is None or self.eval.get("ran", True) is True)

    @property
    def metrics(self) -> Metrics:
        """The raw (uncalibrated) val metrics."""
        val = self.val or {}
        return Metrics.model_validate(val.get("raw", val))


class History(_Foreign):
    """``history.json``; its list of epochs is the field ``epochs`` here."""

    epochs: list[Entry]


class Alignment(_Foreign):
    """``alignmentreport.json`` of a training."""

    data: dict[str, Any] = {}
    model: dict[str, Any] = {}


def read_file(folder: Path, name: str, model: type[Any]) -> Any:
    """Read a JSON file of the run as ``model``; ``None`` if it does not exist."""
    return parse_as(folder / name, model) if (folder / name).is_file() else None


def read_names(path: Path) -> list[str]:
    """Read a JSON list of class names."""
    names = parse_json(path)
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise FerError(
            f"{path.name} is not a list of class names",
            code="unexpected-content",
            where=path,
            fix="copy the folder again, as the first pipeline wrote it",
        )
    return names


def read_history(folder: Path) -> list[Entry]:
    """Read the epochs of ``history.json``."""
    path = folder / "history.json"
    epochs = parse_json(path)
    if not isinstance(epochs, list):
        raise FerError(
            "history.json is not a list of epochs",
            code="unexpected-content",
            where=path,
            fix="copy the folder again, as the first pipeline wrote it",
        )
    try:
        entries = History.model_validate({"epochs": epochs}).epochs
        _ = [entry.metrics for entry in entries]
    except ValueError as error:
        raise FerError(
            f"history.json does not have the fields that the first pipeline wrote: "
            f"{str(error).splitlines()[1]}",
            code="unexpected-content",
            where=path,
            fix="copy the folder again, as the first pipeline wrote it",
        ) from error
    return entries


def read_predictions(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Read labels and predictions ``[N]`` as class indices; the file may state them as names."""
    try:
        frame = pl.read_csv(
            as_text(path), glob=False, columns=["y_true", "y_pred"], infer_schema=False
        )
    except (pl.exceptions.PolarsError, OSError) as error:
        raise FerError(
            f"preds.csv is damaged: {str(error)[:200]}",
            code="invalid-csv",
            where=path,
            fix="copy the folder again, as the first pipeline wrote it",
        ) from error
    index = {name: i for i, name in enumerate(CLASSES)} | {str(i): i for i in range(len(CLASSES))}
    columns = []
    for name in ("y_true", "y_pred"):
        cells = frame[name].fill_null("").to_list()
        wrong = next((cell for cell in cells if cell not in index), None)
        if wrong is not None:
            raise FerError(
                f"preds.csv has the {name} {wrong!r}",
                code="unknown-class",
                where=path,
                allowed="0 to 6, or a class",
            )
        columns.append(np.array([index[cell] for cell in cells], dtype=np.int64))
    return columns[0], columns[1]
