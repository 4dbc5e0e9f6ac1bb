"""Check soft-label exports of the first pipeline: arrays, index and companion files must agree."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from fer_ml.adoption.findings import Findings, check_class_order, check_share, near
from fer_ml.adoption.folder import parse_json
from fer_ml.base.errors import FerError
from fer_ml.base.labels import CLASSES
from fer_ml.base.npz import read_npz
from fer_ml.base.reading import open_file
from fer_ml.metrics.classification import confusion_matrix, f1_scores, softmax

#: Half-precision logits may tie where full ones did not: so much may accuracy and F1 differ.
HALF_PRECISION = 1e-3
#: Bytes of a line of the index: what is longer is read as damaged.
MAX_LINE = 1 << 16


def examine_softlabels(folder: Path, findings: Findings, *, manifest_known: bool) -> None:
    """Check an export against its own index and companion files; results go to ``findings``."""
    logits = y = None
    if (folder / "softlabels.npz").is_file():
        logits, y = read_arrays(folder / "softlabels.npz")
        findings.facts.update(rows=len(logits))
        findings.check(
            "logits_finite",
            bool(np.isfinite(logits).all()),
            f"{len(logits)} rows of {logits.dtype}",
        )
        findings.check("logits_have_labels", len(logits) == len(y), f"{len(logits)} and {len(y)}")
        findings.check(
            "labels_are_classes", bool((y < len(CLASSES)).all()), f"largest {int(y.max(initial=0))}"
        )
    if (folder / "softlabels_index.jsonl").is_file():
        _check_index(findings, folder / "softlabels_index.jsonl", logits, y)
    if (folder / "classorder.json").is_file():
        class_order = parse_json(folder / "classorder.json")
        if not isinstance(class_order, list):
            raise FerError(
                "classorder.json is not a list of class names",
                code="unexpected-content",
                where=folder,
                fix="copy the folder again, as the first pipeline wrote it",
            )
        check_class_order(findings, "classorder", map(str, class_order))
    else:
        findings.cannot("the order of the logits' columns: classorder.json is missing")
    alignment, hashes = (
        _object(folder / n) for n in ("alignmentreport.json", "hash_manifest.json")
    )
    _check_companions(findings, alignment, hashes, None if logits is None else len(logits))
    metrics = _object(folder / "ensemble_metrics.json")
    if logits is not None and y is not None and _usable(logits, y):
        _check_metrics(findings, metrics, logits, y)
    if not manifest_known:
        findings.cannot("that the rows are those of its manifest: no manifest with the named hash")
    findings.cannot("which checkpoints made it: the teachers' files are named, not hashed")
    findings.cannot("that it saw the faces as a student will: no hash of the preprocessing")


def _usable(logits: np.ndarray, y: np.ndarray) -> bool:
    whole = len(logits) == len(y) > 0
    return whole and bool(np.isfinite(logits).all()) and bool((y < len(CLASSES)).all())


def read_arrays(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Read ``logits [N, 7]`` float and ``y [N]`` int64 without unpickling any object.

    Raises ``FerError`` when the file is damaged, declares an unpacked size that is too large, or
    holds other arrays.
    """
    arrays = read_npz(path)
    if not {"logits", "y"} <= arrays.keys():
        raise FerError(
            f"{path.name} holds the arrays {', '.join(arrays) or 'none'}",
            code="missing-array",
            where=path,
            allowed="arrays 'logits' and 'y'",
        )
    logits, y = arrays["logits"], arrays["y"]
    if logits.ndim != 2 or logits.shape[1] != len(CLASSES) or logits.dtype.kind != "f":
        raise FerError(
            f"the array logits is {logits.dtype} {logits.shape}",
            code="invalid-array",
            where=path,
            allowed="float [N, 7]",
        )
    if y.ndim != 1 or y.dtype.kind not in "iu" or (y < 0).any():
        raise FerError(
            f"the array y is {y.dtype} {y.shape}",
            code="invalid-array",
            where=path,
            allowed="whole numbers from 0, [N]",
        )
    return logits, y.astype(np.int64)


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    with open_file(path) as file:
        for number, line in enumerate(iter(lambda: file.readline(MAX_LINE), b""), 1):
            try:
                record = json.loads(line)
                if not isinstance(record, dict):
                    raise ValueError("no object")
            except (ValueError, RecursionError) as error:
                raise FerError(
                    f"line {number} of {path.name} is damaged: {str(error)[:200]}",
                    code="invalid-json",
                    where=path,
                    fix="copy the folder again",
                ) from error
            yield record


def _check_index(
    findings: Findings, path: Path, logits: np.ndarray | None, y: np.ndarray | None
) -> None:
    misplaced = other = lines = 0
    paths: set[str] = set()
    for line in _lines(path):
        misplaced += line.get("i") != lines
        other += y is not None and (lines >= len(y) or line.get("y") != int(y[lines]))
        paths.add(str(line.get("image_path")))
        lines += 1
    if y is not None and logits is not None:
        rows = len(logits)
        findings.check("rows_are_index_lines", rows == lines, f"{rows} rows, {lines} lines")
        findings.check("index_labels_agree", other == 0, f"{other} lines with another label than y")
    findings.check(
        "index_in_order", misplaced == 0, f"{misplaced} lines whose i is not their place"
    )
    findings.check(
        "index_paths_once",
        len(paths) == lines,
        f"{lines - len(paths)} lines repeat a path, of which a lookup by path finds the last alone",
    )


def _object(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    document = parse_json(path)
    if not isinstance(document, dict):
        raise FerError(
            f"{path.name} is not a JSON object",
            code="unexpected-content",
            where=path,
            fix="copy the folder again, as the first pipeline wrote it",
        )
    return document


def _check_companions(
    findings: Findings, alignment: dict[str, Any], hashes: dict[str, Any], rows: int | None
) -> None:
    if isinstance(alignment.get("rows"), int) and rows is not None:
        findings.check(
            "rows_as_reported", alignment["rows"] == rows, f"told {alignment['rows']}, held {rows}"
        )
    a, b = alignment.get("manifest_sha256"), hashes.get("sha256")
    # This platform's own reports name the artifact and the csv by different hashes.
    b = hashes.get("manifest_sha256", b)
    if isinstance(a, str) and isinstance(b, str):
        findings.check("one_manifest", a == b, f"alignmentreport {a[:12]}, hash_manifest {b[:12]}")
    weights = alignment.get("ensemble")
    teacher_weights = weights.get("weights") if isinstance(weights, dict) else None
    numbers = (
        list(teacher_weights.values()) if isinstance(teacher_weights, dict) else teacher_weights
    )
    if isinstance(numbers, list) and all(isinstance(w, int | float) for w in numbers):
        findings.check(
            "weights_sum_to_one",
            near(sum(numbers), 1.0) and min(numbers, default=0) >= 0,
            " + ".join(f"{w:g}" for w in numbers),
        )
        findings.cannot("which rows the weights were chosen on: no file says so")


def _check_metrics(
    findings: Findings, metrics: dict[str, Any], logits: np.ndarray, y: np.ndarray
) -> None:
    probs = softmax(logits)
    findings.facts["mean_max_probability"] = float(probs.max(axis=1).mean())
    matrix = confusion_matrix(y, probs.argmax(axis=1), len(CLASSES))
    figures = {
        "accuracy": float(np.trace(matrix) / len(y)),
        "macro_f1": float(f1_scores(matrix).mean()),
    }
    for name, value in figures.items():
        reported = metrics.get(name)
        if not isinstance(reported, int | float) or isinstance(reported, bool):
            continue
        if name == "accuracy":
            check_share(findings, "ensemble_accuracy", reported, len(y), "softlabels.npz")
        findings.check(
            f"{name}_of_logits",
            near(value, reported, HALF_PRECISION),
            f"{value:.6f} from the logits, told {reported:.6f}",
        )
