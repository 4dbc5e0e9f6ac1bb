"""Run folders and evaluations of the first pipeline: do their files tell one story?"""

import itertools
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from pydantic import BaseModel, ConfigDict
from safetensors import SafetensorError, safe_open

from fer_ml.adoption.findings import (
    Findings,
    check_class_order,
    check_finite,
    check_share,
    near,
)
from fer_ml.adoption.folder import parse_as, parse_json
from fer_ml.base.errors import FerError
from fer_ml.base.files import sha256_file
from fer_ml.base.labels import CLASSES
from fer_ml.metrics.classification import confusion_matrix, f1_scores
from fer_ml.recipes.preprocess import Preprocess
from fer_ml.recipes.training import read_plain, read_recipe
from fer_ml.training.checkpoint import Checkpoint
from fer_ml.training.models import build_model

#: The bounds to which the first pipeline cut its temperatures.
CLAMP = (0.5, 5.0)


class _Foreign(BaseModel):
    """A file of another program: known keys have their types, others are let be."""

    model_config = ConfigDict(frozen=True, strict=True, extra="allow")


class Metrics(_Foreign):
    """Metrics of one set of predictions, as they were written."""

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
        """Whether val was measured in this epoch; otherwise the figures are an earlier one's."""
        return self.val is not None and (self.eval is None or self.eval.get("ran", True) is True)

    @property
    def metrics(self) -> Metrics:
        """Raw val metrics."""
        held = self.val or {}
        return Metrics.model_validate(held.get("raw", held))


class History(_Foreign):
    """``history.json``, whose list stands under ``epochs`` here."""

    epochs: list[Entry]


class Alignment(_Foreign):
    """``alignmentreport.json`` of a training."""

    data: dict[str, Any] = {}
    model: dict[str, Any] = {}


def examine_run(
    folder: Path, found: Findings, checkpoint: Checkpoint | None, *, manifest_known: bool
) -> None:
    """Hold the files of one training against each other."""
    if checkpoint is not None:
        bad = sum(not bool(tensor.isfinite().all()) for tensor in checkpoint.model.values())
        found.check("weights_finite", bad == 0, f"{bad} tensors with NaN or infinity")
    history = _history(folder) if (folder / "history.json").is_file() else None
    report = _read(folder, "reliabilitymetrics.json", Reliability)
    calibration = _read(folder, "calibration.json", Calibration)
    alignment = _read(folder, "alignmentreport.json", Alignment)
    best = _check_history(found, history) if history is not None else None
    if report is not None:
        n, n_from = _rows(found, report, alignment, folder)
        _check_metrics(found, report, n, n_from)
        _check_epoch(found, report, history, best, checkpoint)
    if calibration is not None:
        _check_calibration(found, calibration, report, checkpoint)
    if alignment is not None:
        _check_alignment(found, alignment)
    if report is not None and (folder / "preds.csv").is_file():
        _check_predictions(found, folder / "preds.csv", report.raw)
    if report is not None and report.checkpoint_sha256 is not None and checkpoint is not None:
        digest = sha256_file(folder / "best.pt")
        found.check(
            "metrics_carry_checkpoint",
            report.checkpoint_sha256 == digest,
            f"the metrics speak of {report.checkpoint_sha256[:12]}, best.pt is {digest[:12]}",
        )
    if (folder / "classorder.json").is_file():
        check_class_order(found, "classorder", _names(folder / "classorder.json"))
    _say_what_is_unknown(found, history, checkpoint, manifest_known)


def examine_evaluation(folder: Path, found: Findings) -> None:
    """Hold an evaluation of a student against its own predictions."""
    report = _read(folder, "reliabilitymetrics.json", Reliability)
    meta = parse_json(folder / "eval_meta.json") if (folder / "eval_meta.json").is_file() else {}
    if not isinstance(meta, dict):
        raise FerError("eval_meta.json is none of the first pipeline", where=folder)
    predictions = folder / "preds.csv"
    n = _read_predictions(predictions)[0].size if predictions.is_file() else None
    if n is not None and isinstance(meta.get("counts"), int):
        found.check(
            "every_row_scored", meta["counts"] == n, f"{n} predictions of {meta['counts']} rows"
        )
    if meta.get("max_batches"):
        found.check("whole_set", False, f"it stopped after {meta['max_batches']} batches")
    if meta.get("data_root") == ".":
        found.check(
            "data_root_given", False, "data root '.': relative paths may have been dropped unsaid"
        )
    if report is not None:
        _check_metrics(found, report, report.n or n, "reliabilitymetrics.json or preds.csv")
        if predictions.is_file():
            _check_predictions(found, predictions, report.raw)
        if report.temperature_scaled is not None:
            _check_clamp(found, report.temperature_scaled.global_temperature)
            found.cannot(
                "temperature-scaled figures: the temperature was fitted on the evaluated rows"
            )
    for key in ("split", "tta"):
        if isinstance(meta.get(key), str):
            found.facts[key] = meta[key]
    found.cannot("which bytes the checkpoint and manifest had: eval_meta.json names paths only")
    found.cannot("that no row of the manifest was dropped: its rows are not in the files")


def _read(folder: Path, name: str, model: type[Any]) -> Any:
    return parse_as(folder / name, model) if (folder / name).is_file() else None


def _names(path: Path) -> list[str]:
    held = parse_json(path)
    if not isinstance(held, list) or not all(isinstance(name, str) for name in held):
        raise FerError(f"{path.name} is no list of classes", where=path)
    return held


def _history(folder: Path) -> list[Entry]:
    path = folder / "history.json"
    held = parse_json(path)
    if not isinstance(held, list):
        raise FerError("history.json is no list of epochs", where=path)
    try:
        entries = History.model_validate({"epochs": held}).epochs
        _ = [entry.metrics for entry in entries]
    except ValueError as error:
        raise FerError(
            f"history.json is none of the first pipeline: {str(error).splitlines()[1]}", where=path
        ) from error
    return entries


def _check_history(found: Findings, history: list[Entry]) -> Entry | None:
    """Checks of the history; returns the epoch with the highest raw val macro-F1."""
    epochs = [entry.epoch for entry in history]
    found.check("something_was_trained", bool(epochs), f"{len(epochs)} epochs in history.json")
    found.check(
        "epochs_in_order",
        all(a < b for a, b in itertools.pairwise(epochs)),
        f"epochs {epochs[0]} to {epochs[-1]}" if epochs else "none",
    )
    scored = [e for e in history if e.measured and e.metrics.macro_f1 is not None]
    if not scored:
        found.cannot("which epoch is best: history.json has no val macro-F1")
        return None
    best = max(scored, key=lambda entry: float(entry.metrics.macro_f1 or 0))
    found.facts.update(
        epochs=len(history), best_epoch=best.epoch, best_val_macro_f1=best.metrics.macro_f1
    )
    if len(scored) < len(history):
        found.cannot(
            f"that epoch {best.epoch} is the best: val was measured in {len(scored)} of "
            f"{len(history)} epochs"
        )
    return best


def _rows(
    found: Findings, report: Reliability, alignment: Alignment | None, folder: Path
) -> tuple[int | None, str]:
    """n of the metrics, and which file says so; two that disagree are a contradiction."""
    told: dict[str, int] = {}
    n = report.n if report.n is not None else report.raw.n
    if n is not None:
        told["reliabilitymetrics.json"] = n
    rows = alignment.data.get("val_rows") if alignment is not None else None
    if isinstance(rows, int):
        told["alignmentreport.json"] = rows
    if (folder / "preds.csv").is_file():
        told["preds.csv"] = _read_predictions(folder / "preds.csv")[0].size
    if len(told) > 1:
        listed = ", ".join(f"{name} {value}" for name, value in told.items())
        found.check("n_agrees", len(set(told.values())) == 1, listed)
    if not told:
        return None, ""
    name = next(iter(told))
    found.facts["n"] = told[name]
    return told[name], name


def _check_metrics(found: Findings, report: Reliability, n: int | None, n_from: str) -> None:
    for name, held in (("raw", report.raw), ("scaled", report.temperature_scaled)):
        if held is None:
            continue
        numbers = {
            key: getattr(held, key) for key in ("accuracy", "macro_f1", "ece", "nll", "brier")
        }
        fine = check_finite(found, name, numbers)
        if fine and held.accuracy is not None and (name == "raw" or n is not None):
            check_share(found, f"{name}_accuracy", held.accuracy, n, n_from)
        _check_per_class(found, name, held)
    if report.raw.accuracy is not None:
        found.facts["accuracy"] = report.raw.accuracy
    if report.raw.macro_f1 is not None:
        found.facts["macro_f1"] = report.raw.macro_f1
    scaled = report.temperature_scaled
    if scaled is None or scaled.mode not in (None, "global"):
        return
    if scaled.accuracy is not None and report.raw.accuracy is not None:
        found.check(
            "scaling_keeps_accuracy",
            near(scaled.accuracy, report.raw.accuracy),
            f"raw {report.raw.accuracy:.6f}, scaled by one temperature {scaled.accuracy:.6f}",
        )


def _check_per_class(found: Findings, name: str, held: Metrics) -> None:
    scores = held.per_class_f1
    if not scores:
        return
    if isinstance(scores, dict):
        # JSON objects have no order that counts: a name belongs to its number.
        found.check(
            f"{name}_classes", set(scores) == set(CLASSES), ", ".join(sorted(scores)) or "none"
        )
        values = list(scores.values())
    else:
        found.check(f"{name}_classes", len(scores) == len(CLASSES), f"{len(scores)} numbers")
        found.cannot(f"which class each of the {name} per-class F1 belongs to: it is a bare list")
        values = list(scores)
    if held.macro_f1 is not None:
        mean = float(np.mean(values))
        found.check(
            f"{name}_macro_f1_is_mean",
            near(mean, held.macro_f1, 1e-5),
            f"mean of the classes {mean:.6f}, macro-F1 {held.macro_f1:.6f}",
        )


def _check_epoch(
    found: Findings,
    report: Reliability,
    history: list[Entry] | None,
    best: Entry | None,
    checkpoint: Checkpoint | None,
) -> None:
    """The metrics should be of the epoch whose weights are kept; in the first pipeline: the last's.

    A student's metrics carry no epoch; the epoch of the history with the same figures is theirs.
    """
    epoch = report.epoch
    if epoch is None and history:
        same = [e.epoch for e in history if e.measured and _same(e.metrics, report.raw)]
        epoch = same[0] if same else None
    told = next((e for e in history or () if e.epoch == epoch), None)
    if history and told is None:
        found.check(
            "metrics_stand_in_history", False, "no epoch of history.json has these val metrics"
        )
    elif told is not None and told.val is not None:
        found.check(
            "metrics_stand_in_history",
            _same(told.metrics, report.raw),
            f"epoch {epoch}: history.json {_figures(told.metrics)}, told {_figures(report.raw)}",
        )
    if best is not None and epoch is not None:
        found.check(
            "metrics_of_best_epoch",
            epoch == best.epoch,
            f"reliabilitymetrics.json describes epoch {epoch}, best by val macro-F1 is epoch "
            f"{best.epoch} ({_figures(report.raw)}, best {_figures(best.metrics)})",
        )
    if checkpoint is None:
        return
    if epoch is not None:
        found.check(
            "metrics_of_checkpoint",
            epoch == checkpoint.epoch,
            f"reliabilitymetrics.json describes epoch {epoch}, the weights are of epoch "
            f"{checkpoint.epoch}",
        )
    if best is not None:
        found.check(
            "checkpoint_is_best_epoch",
            best.epoch == checkpoint.epoch,
            f"the weights are of epoch {checkpoint.epoch}, best of history.json is {best.epoch}",
        )


def _same(a: Metrics, b: Metrics) -> bool:
    pairs = [(a.macro_f1, b.macro_f1), (a.accuracy, b.accuracy)]
    known = [(x, y) for x, y in pairs if x is not None and y is not None]
    return bool(known) and all(near(x, y) for x, y in known)


def _figures(metrics: Metrics) -> str:
    return "-" if metrics.macro_f1 is None else f"macro-F1 {metrics.macro_f1:.6f}"


def _check_calibration(
    found: Findings,
    calibration: Calibration,
    report: Reliability | None,
    checkpoint: Checkpoint | None,
) -> None:
    _check_clamp(found, calibration.global_temperature)
    scaled = report.temperature_scaled if report is not None else None
    told = scaled.global_temperature if scaled is not None else None
    if told is not None and calibration.global_temperature is not None:
        found.check(
            "one_temperature",
            near(told, calibration.global_temperature),
            f"calibration.json {calibration.global_temperature}, reliabilitymetrics.json {told}",
        )
    epoch = calibration.epoch
    if epoch is None:
        found.cannot("which epoch's weights the temperature belongs to: calibration.json has none")
    elif checkpoint is not None:
        found.check(
            "temperature_of_checkpoint",
            epoch == checkpoint.epoch,
            f"calibration.json is of epoch {epoch}, the weights are of epoch {checkpoint.epoch}",
        )
    found.cannot("the temperature on rows of its own: it was fitted on the rows it is reported on")


def _check_clamp(found: Findings, temperature: float | None) -> None:
    if temperature is None:
        return
    low, high = CLAMP
    found.facts["temperature"] = temperature
    inside = low + 1e-4 < temperature < high - 1e-4
    found.check(
        "temperature_not_on_clamp",
        inside,
        f"T = {temperature}; the first pipeline cut it to {low}..{high}, and on a bound it is no "
        "optimum",
    )


def _check_alignment(found: Findings, alignment: Alignment) -> None:
    data = alignment.data
    total = data.get("rows_total_after_filter")
    rows = [data.get("train_rows"), data.get("val_rows")]
    if isinstance(total, int) and all(isinstance(n, int) for n in rows):
        both = sum(n for n in rows if isinstance(n, int))
        found.check(
            "rows_fit_total", both <= total, f"train {rows[0]} + val {rows[1]}, rows {total}"
        )
    sources = data.get("source_counts_after_filter")
    if isinstance(sources, dict) and all(isinstance(n, int) for n in sources.values()):
        counted = sum(sources.values())
        if isinstance(total, int):
            found.check("sources_add_up", counted == total, f"sources {counted}, rows {total}")
        named = data.get("source_filter")
        wanted = named.get("include") if isinstance(named, dict) else None
        if isinstance(wanted, list):
            empty = [str(name) for name in wanted if not sources.get(str(name))]
            found.check(
                "named_sources_have_rows",
                not empty,
                f"named in the filter and without a row: {', '.join(empty)}" if empty else "all",
            )


def _check_predictions(found: Findings, path: Path, told: Metrics) -> None:
    y, predicted = _read_predictions(path)
    matrix = confusion_matrix(y, predicted, len(CLASSES))
    accuracy = float(np.trace(matrix) / max(1, matrix.sum()))
    if told.accuracy is not None:
        found.check(
            "accuracy_of_predictions",
            near(accuracy, told.accuracy),
            f"{int(np.trace(matrix))}/{len(y)} = {accuracy:.6f}, told {told.accuracy:.6f}",
        )
    if told.macro_f1 is not None:
        macro = float(f1_scores(matrix).mean())
        found.check(
            "macro_f1_of_predictions",
            near(macro, told.macro_f1),
            f"{macro:.6f} from preds.csv, told {told.macro_f1:.6f}",
        )
    found.facts.setdefault("n", len(y))


def _read_predictions(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Labels and predictions ``[N]`` as class indices; they may be written as names."""
    try:
        frame = pl.read_csv(path, columns=["y_true", "y_pred"], infer_schema=False)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise FerError(f"preds.csv is damaged: {str(error)[:200]}", where=path) from error
    index = {name: i for i, name in enumerate(CLASSES)} | {str(i): i for i in range(len(CLASSES))}
    columns = []
    for name in ("y_true", "y_pred"):
        cells = frame[name].fill_null("").to_list()
        wrong = next((cell for cell in cells if cell not in index), None)
        if wrong is not None:
            raise FerError(
                f"preds.csv has {name} {wrong!r}", where=path, allowed="0 to 6, or a class"
            )
        columns.append(np.array([index[cell] for cell in cells], dtype=np.int64))
    return columns[0], columns[1]


def _say_what_is_unknown(
    found: Findings,
    history: list[Entry] | None,
    checkpoint: Checkpoint | None,
    manifest_known: bool,
) -> None:
    student = bool(history) and history is not None and history[0].train_loss is not None
    if checkpoint is not None:
        found.cannot("that the weights give these metrics: the val faces are not in the folder")
    if not manifest_known:
        found.cannot("which rows it was trained and measured on: no manifest with the named hash")
    found.cannot("which code made it, and that the first weights were those that were meant")
    if not student:
        found.cannot("that batches differed by epoch: the first pipeline's sampler repeated them")
        return
    found.cannot(
        "the loss: it stands in no file. The first pipeline's DKD is (1-a) CE + a T^2 (TCKD + beta "
        "NCKD), its documents put T^2 before each term a second time"
    )
    shares = [
        float(entry.negl["applied_frac"])
        for entry in history or ()
        if entry.negl and isinstance(entry.negl.get("applied_frac"), int | float)
    ]
    if any(share > 0 for share in shares):
        found.check(
            "negative_learning_sign",
            False,
            f"NegL was applied to up to {max(shares):.1%} of the rows; the first pipeline "
            "minimised -log p(neg), which raises what it should lower",
        )


def fitting(checkpoint: Checkpoint, path: Path) -> Checkpoint:
    """The checkpoint with its tensors in the network's order; ``FerError`` if they do not fit it.

    In this order the same weights give the same bytes, whichever file they were read from.
    """
    try:
        own = build_model(checkpoint.recipe)
        own.load_state_dict(checkpoint.model)
    except (RuntimeError, AttributeError) as error:
        raise FerError(
            f"the weights in {path.name} do not fit the {checkpoint.recipe.architecture} that it "
            f"names: {str(error).splitlines()[-1].strip()}",
            where=path,
            fix="convert or copy the checkpoint again",
        ) from error
    return replace(checkpoint, model={name: checkpoint.model[name] for name in own.state_dict()})


def read_weights(path: Path) -> Checkpoint:
    """A ``.safetensors`` file of this platform as a checkpoint; it can hold no code."""
    try:
        with safe_open(path, framework="pt") as held:
            metadata = held.metadata() or {}
            state = {name: held.get_tensor(name) for name in held.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise FerError(f"{path.name} is damaged: {error}", where=path) from error
    try:
        facts = json.loads(metadata["fer"])
        checkpoint = Checkpoint(
            model=state,
            recipe=read_recipe(facts["recipe"]),
            preprocess=read_plain(Preprocess, facts["preprocess"], "preprocess"),
            classes=tuple(facts["classes"]),
            epoch=facts["epoch"],
        )
    except (KeyError, ValueError, TypeError) as error:
        raise FerError(
            f"{path.name} does not say which network it holds",
            where=path,
            allowed="safetensors with this platform's facts under 'fer' in the metadata",
            fix="convert the run's .pt instead: fer convert --help",
        ) from error
    return fitting(checkpoint, path)
