"""Check run directories and evaluations of the first pipeline for consistency."""

import itertools
from pathlib import Path

import numpy as np

from fer_ml.adoption.findings import Findings, check_class_order, check_finite, check_share, near
from fer_ml.adoption.folder import parse_json
from fer_ml.adoption.run_files import (
    Alignment,
    Calibration,
    Entry,
    Metrics,
    Reliability,
    read_file,
    read_history,
    read_names,
    read_predictions,
)
from fer_ml.base.errors import FerError
from fer_ml.base.labels import CLASSES
from fer_ml.base.reading import sha256_file
from fer_ml.metrics.classification import confusion_matrix, f1_scores
from fer_ml.training.checkpoint import Checkpoint

#: The bounds to which the first pipeline cut its temperatures.
CLAMP = (0.5, 5.0)


def examine_run(
    folder: Path, findings: Findings, checkpoint: Checkpoint | None, *, manifest_known: bool
) -> None:
    """Check the files of one training against each other; results go to ``findings``."""
    if checkpoint is not None:
        bad = sum(not bool(tensor.isfinite().all()) for tensor in checkpoint.model.values())
        findings.check("weights_finite", bad == 0, f"{bad} tensors with NaN or infinity")
    history = read_history(folder) if (folder / "history.json").is_file() else None
    report = read_file(folder, "reliabilitymetrics.json", Reliability)
    calibration = read_file(folder, "calibration.json", Calibration)
    alignment = read_file(folder, "alignmentreport.json", Alignment)
    best = _check_history(findings, history) if history is not None else None
    if report is not None:
        n, n_from = _rows(findings, report, alignment, folder)
        _check_metrics(findings, report, n, n_from)
        _check_epoch(findings, report, history, best, checkpoint)
    if calibration is not None:
        _check_calibration(findings, calibration, report, checkpoint)
    if alignment is not None:
        _check_alignment(findings, alignment)
    if report is not None and (folder / "preds.csv").is_file():
        _check_predictions(findings, folder / "preds.csv", report.raw)
    if report is not None and report.checkpoint_sha256 is not None and checkpoint is not None:
        digest = sha256_file(folder / "best.pt")
        findings.check(
            "metrics_carry_checkpoint",
            report.checkpoint_sha256 == digest,
            f"the metrics speak of {report.checkpoint_sha256[:12]}, best.pt is {digest[:12]}",
        )
    if (folder / "classorder.json").is_file():
        check_class_order(findings, "classorder", read_names(folder / "classorder.json"))
    _say_what_is_unknown(findings, history, checkpoint, manifest_known)


def examine_evaluation(folder: Path, findings: Findings) -> None:
    """Check a student's evaluation against its own predictions; results go to ``findings``."""
    report = read_file(folder, "reliabilitymetrics.json", Reliability)
    meta = parse_json(folder / "eval_meta.json") if (folder / "eval_meta.json").is_file() else {}
    if not isinstance(meta, dict):
        raise FerError(
            "eval_meta.json is not a JSON object",
            code="unexpected-content",
            where=folder,
            fix="copy the folder again, as the first pipeline wrote it",
        )
    predictions = folder / "preds.csv"
    n = read_predictions(predictions)[0].size if predictions.is_file() else None
    if n is not None and isinstance(meta.get("counts"), int):
        findings.check(
            "every_row_scored", meta["counts"] == n, f"{n} predictions of {meta['counts']} rows"
        )
    if meta.get("max_batches"):
        findings.check("whole_set", False, f"it stopped after {meta['max_batches']} batches")
    if meta.get("data_root") == ".":
        findings.check(
            "data_root_given", False, "data root '.': relative paths may have been dropped unsaid"
        )
    if report is not None:
        _check_metrics(findings, report, report.n or n, "reliabilitymetrics.json or preds.csv")
        if predictions.is_file():
            _check_predictions(findings, predictions, report.raw)
        if report.temperature_scaled is not None:
            _check_clamp(findings, report.temperature_scaled.global_temperature)
            findings.cannot(
                "temperature-scaled figures: the temperature was fitted on the evaluated rows"
            )
    for key in ("split", "tta"):
        if isinstance(meta.get(key), str):
            findings.facts[key] = meta[key]
    findings.cannot("which bytes the checkpoint and manifest had: eval_meta.json names paths only")
    findings.cannot("that no row of the manifest was dropped: its rows are not in the files")


def _check_history(findings: Findings, history: list[Entry]) -> Entry | None:
    """Check the history; return the epoch with the highest raw val macro-F1."""
    epochs = [entry.epoch for entry in history]
    findings.check("something_was_trained", bool(epochs), f"{len(epochs)} epochs in history.json")
    findings.check(
        "epochs_in_order",
        all(a < b for a, b in itertools.pairwise(epochs)),
        f"epochs {epochs[0]} to {epochs[-1]}" if epochs else "none",
    )
    scored = [e for e in history if e.measured and e.metrics.macro_f1 is not None]
    if not scored:
        findings.cannot("which epoch is best: history.json has no val macro-F1")
        return None
    best = max(scored, key=lambda entry: float(entry.metrics.macro_f1 or 0))
    findings.facts.update(
        epochs=len(history), best_epoch=best.epoch, best_val_macro_f1=best.metrics.macro_f1
    )
    if len(scored) < len(history):
        findings.cannot(
            f"that epoch {best.epoch} is the best: val was measured in {len(scored)} of "
            f"{len(history)} epochs"
        )
    return best


def _rows(
    findings: Findings, report: Reliability, alignment: Alignment | None, folder: Path
) -> tuple[int | None, str]:
    """Return the n of the metrics, and the file that states it; disagreement is a contradiction."""
    counts: dict[str, int] = {}
    n = report.n if report.n is not None else report.raw.n
    if n is not None:
        counts["reliabilitymetrics.json"] = n
    rows = alignment.data.get("val_rows") if alignment is not None else None
    if isinstance(rows, int):
        counts["alignmentreport.json"] = rows
    if (folder / "preds.csv").is_file():
        counts["preds.csv"] = read_predictions(folder / "preds.csv")[0].size
    if len(counts) > 1:
        listed = ", ".join(f"{name} {value}" for name, value in counts.items())
        findings.check("n_agrees", len(set(counts.values())) == 1, listed)
    if not counts:
        return None, ""
    name = next(iter(counts))
    findings.facts["n"] = counts[name]
    return counts[name], name


def _check_metrics(findings: Findings, report: Reliability, n: int | None, n_from: str) -> None:
    for name, metrics in (("raw", report.raw), ("scaled", report.temperature_scaled)):
        if metrics is None:
            continue
        numbers = {
            key: getattr(metrics, key) for key in ("accuracy", "macro_f1", "ece", "nll", "brier")
        }
        fine = check_finite(findings, name, numbers)
        if fine and metrics.accuracy is not None and (name == "raw" or n is not None):
            check_share(findings, f"{name}_accuracy", metrics.accuracy, n, n_from)
        _check_per_class(findings, name, metrics)
    if report.raw.accuracy is not None:
        findings.facts["accuracy"] = report.raw.accuracy
    if report.raw.macro_f1 is not None:
        findings.facts["macro_f1"] = report.raw.macro_f1
    scaled = report.temperature_scaled
    if scaled is None or scaled.mode not in (None, "global"):
        return
    if scaled.accuracy is not None and report.raw.accuracy is not None:
        findings.check(
            "scaling_keeps_accuracy",
            near(scaled.accuracy, report.raw.accuracy),
            f"raw {report.raw.accuracy:.6f}, scaled by one temperature {scaled.accuracy:.6f}",
        )


def _check_per_class(findings: Findings, name: str, metrics: Metrics) -> None:
    scores = metrics.per_class_f1
    if not scores:
        return
    if isinstance(scores, dict):
        # JSON objects have no order that counts: a name belongs to its number.
        findings.check(
            f"{name}_classes", set(scores) == set(CLASSES), ", ".join(sorted(scores)) or "none"
        )
        values = list(scores.values())
    else:
        findings.check(f"{name}_classes", len(scores) == len(CLASSES), f"{len(scores)} numbers")
        findings.cannot(
            f"which class each of the {name} per-class F1 belongs to: it is a bare list"
        )
        values = list(scores)
    if metrics.macro_f1 is not None:
        mean = float(np.mean(values))
        findings.check(
            f"{name}_macro_f1_is_mean",
            near(mean, metrics.macro_f1, 1e-5),
            f"mean of the classes {mean:.6f}, macro-F1 {metrics.macro_f1:.6f}",
        )


def _check_epoch(
    findings: Findings,
    report: Reliability,
    history: list[Entry] | None,
    best: Entry | None,
    checkpoint: Checkpoint | None,
) -> None:
    """Check that the metrics are of the kept weights' epoch; the first pipeline used the last.

    A student's metrics carry no epoch; they are matched with the epoch that has the same figures.
    """
    epoch = report.epoch
    if epoch is None and history:
        same = [e.epoch for e in history if e.measured and _same(e.metrics, report.raw)]
        epoch = same[0] if same else None
    entry = next((e for e in history or () if e.epoch == epoch), None)
    if history and entry is None:
        findings.check(
            "metrics_stand_in_history", False, "no epoch of history.json has these val metrics"
        )
    elif entry is not None and entry.val is not None:
        findings.check(
            "metrics_stand_in_history",
            _same(entry.metrics, report.raw),
            f"epoch {epoch}: history.json {_figures(entry.metrics)}, told {_figures(report.raw)}",
        )
    if best is not None and epoch is not None:
        findings.check(
            "metrics_of_best_epoch",
            epoch == best.epoch,
            f"reliabilitymetrics.json describes epoch {epoch}, best by val macro-F1 is epoch "
            f"{best.epoch} ({_figures(report.raw)}, best {_figures(best.metrics)})",
        )
    if checkpoint is None:
        return
    if epoch is not None:
        findings.check(
            "metrics_of_checkpoint",
            epoch == checkpoint.epoch,
            f"reliabilitymetrics.json describes epoch {epoch}, the weights are of epoch "
            f"{checkpoint.epoch}",
        )
    if best is not None:
        findings.check(
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
    findings: Findings,
    calibration: Calibration,
    report: Reliability | None,
    checkpoint: Checkpoint | None,
) -> None:
    _check_clamp(findings, calibration.global_temperature)
    scaled = report.temperature_scaled if report is not None else None
    t = scaled.global_temperature if scaled is not None else None
    if t is not None and calibration.global_temperature is not None:
        findings.check(
            "one_temperature",
            near(t, calibration.global_temperature),
            f"calibration.json {calibration.global_temperature}, reliabilitymetrics.json {t}",
        )
    epoch = calibration.epoch
    if epoch is None:
        findings.cannot(
            "which epoch's weights the temperature belongs to: calibration.json has none"
        )
    elif checkpoint is not None:
        findings.check(
            "temperature_of_checkpoint",
            epoch == checkpoint.epoch,
            f"calibration.json is of epoch {epoch}, the weights are of epoch {checkpoint.epoch}",
        )
    findings.cannot(
        "the temperature on rows of its own: it was fitted on the rows it is reported on"
    )


def _check_clamp(findings: Findings, temperature: float | None) -> None:
    if temperature is None:
        return
    low, high = CLAMP
    findings.facts["temperature"] = temperature
    inside = low + 1e-4 < temperature < high - 1e-4
    findings.check(
        "temperature_not_on_clamp",
        inside,
        f"T = {temperature}; the first pipeline cut it to {low}..{high}, and on a bound it is no "
        "optimum",
    )


def _check_alignment(findings: Findings, alignment: Alignment) -> None:
    data = alignment.data
    total = data.get("rows_total_after_filter")
    rows = [data.get("train_rows"), data.get("val_rows")]
    if isinstance(total, int) and all(isinstance(n, int) for n in rows):
        both = sum(n for n in rows if isinstance(n, int))
        findings.check(
            "rows_fit_total", both <= total, f"train {rows[0]} + val {rows[1]}, rows {total}"
        )
    sources = data.get("source_counts_after_filter")
    if isinstance(sources, dict) and all(isinstance(n, int) for n in sources.values()):
        counted = sum(sources.values())
        if isinstance(total, int):
            findings.check("sources_add_up", counted == total, f"sources {counted}, rows {total}")
        named = data.get("source_filter")
        wanted = named.get("include") if isinstance(named, dict) else None
        if isinstance(wanted, list):
            empty = [str(name) for name in wanted if not sources.get(str(name))]
            findings.check(
                "named_sources_have_rows",
                not empty,
                f"named in the filter and without a row: {', '.join(empty)}" if empty else "all",
            )


def _check_predictions(findings: Findings, path: Path, metrics: Metrics) -> None:
    y, predicted = read_predictions(path)
    matrix = confusion_matrix(y, predicted, len(CLASSES))
    accuracy = float(np.trace(matrix) / max(1, matrix.sum()))
    if metrics.accuracy is not None:
        findings.check(
            "accuracy_of_predictions",
            near(accuracy, metrics.accuracy),
            f"{int(np.trace(matrix))}/{len(y)} = {accuracy:.6f}, told {metrics.accuracy:.6f}",
        )
    if metrics.macro_f1 is not None:
        macro = float(f1_scores(matrix).mean())
        findings.check(
            "macro_f1_of_predictions",
            near(macro, metrics.macro_f1),
            f"{macro:.6f} from preds.csv, told {metrics.macro_f1:.6f}",
        )
    findings.facts.setdefault("n", len(y))


def _say_what_is_unknown(
    findings: Findings,
    history: list[Entry] | None,
    checkpoint: Checkpoint | None,
    manifest_known: bool,
) -> None:
    student = bool(history) and history is not None and history[0].train_loss is not None
    if checkpoint is not None:
        findings.cannot("that the weights give these metrics: the val faces are not in the folder")
    if not manifest_known:
        findings.cannot(
            "which rows it was trained and measured on: no manifest with the named hash"
        )
    findings.cannot("which code made it, and that the first weights were those that were meant")
    if not student:
        findings.cannot(
            "that batches differed by epoch: the first pipeline's sampler repeated them"
        )
        return
    findings.cannot(
        "the loss: it stands in no file. The first pipeline's DKD is (1-a) CE + a T^2 (TCKD + beta "
        "NCKD), its documents put T^2 before each term a second time"
    )
    shares = [
        float(entry.negl["applied_frac"])
        for entry in history or ()
        if entry.negl and isinstance(entry.negl.get("applied_frac"), int | float)
    ]
    if any(share > 0 for share in shares):
        findings.check(
            "negative_learning_sign",
            False,
            f"NegL was applied to up to {max(shares):.1%} of the rows; the first pipeline "
            "minimised -log p(neg), which raises what it should lower",
        )
