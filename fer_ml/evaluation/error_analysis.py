"""Tables and pages of the models' errors, for people, from the benchmark's predictions alone."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from fer_ml.base.labels import CLASSES
from fer_ml.evaluation.sets import MAIN_SET, evaluation_set
from fer_ml.figures.page import render_page
from fer_ml.manifests.schema import boxes
from fer_ml.metrics.classification import confusion_matrix, log_softmax
from fer_ml.metrics.comparability import caption
from fer_ml.metrics.predictions import read_predictions
from fer_ml.storage.job import Job
from fer_ml.storage.store import RunFolder
from fer_ml.validation.contact_sheets import Tile, contact_sheet, read_tile
from fer_ml.validation.review import embedded_face, prediction_disagreements, write_review

#: The model that students are held against, and whose doubts go back to the data.
TEACHER = "ensemble"
#: Faces of each kind on a sheet and on the page.
SHOWN = 24
#: A source with fewer rows is not called the worst.
MIN_ROWS = 20


def analyse_errors(run: RunFolder, job: Job[Any]) -> None:
    """Write tables, contact sheets and one page on every student and the ensemble."""
    benchmark = job.input("benchmark")
    entries = benchmark.read_json("benchmark.json")["entries"]
    frame = evaluation_set(job, MAIN_SET).frame
    # The students stand before the ensemble that taught them, the last in line first.
    others = [name for name in entries if name != TEACHER and not name.startswith("teacher_")]
    names = [*reversed(others), TEACHER]
    logits = {
        name: read_predictions(benchmark.file(f"predictions/{name}__{MAIN_SET}.csv"))
        for name in names
    }
    scaled = {
        name: log_softmax(values, entries[name][MAIN_SET]["temperature"])
        for name, (_, _, values) in logits.items()
    }
    y = logits[TEACHER][1]
    models = {name: _model(frame, y, log_p, scaled[TEACHER]) for name, log_p in scaled.items()}
    cases = {name: _cases(frame, y, log_p) for name, log_p in scaled.items()}
    doubts = _doubts(frame, scaled[TEACHER])
    about = entries[TEACHER][MAIN_SET]
    report = {
        "schema_version": 1,
        "set": MAIN_SET,
        "caption": caption(MAIN_SET, about),
        "manifest_sha256": about["manifest_sha256"],
        "n": len(y),
        "selection_split": about["selection_split"],
        "teacher": TEACHER,
        "models": models,
        "label_noise": {
            "by": TEACHER,
            "contradicted": doubts.height,
            "likely_errors": int(doubts["likely_error"].sum()),
            "file": "review.csv",
        },
    }
    run.write_json("error_analysis.json", report)
    run.write_text("cases.csv", _case_table(cases))
    run.write_text("confusions.csv", _confusion_table(y, scaled))
    write_review(run, doubts, job.store.root, "Test labels that the ensemble contradicts")
    for name, table in cases.items():
        for kind, rows in _kinds(table):
            run.path(f"faces/{name}_{kind}.png").write_bytes(_sheet(rows, job.store.root))
    run.write_text("error_analysis.html", _page(report, cases, job.store.root))
    run.summary.update(
        n=len(y),
        likely_label_errors=report["label_noise"]["likely_errors"],
        **{f"{name}_mistakes": figures["mistakes"] for name, figures in models.items()},
    )


def _model(
    frame: pl.DataFrame, y: np.ndarray, log_p: np.ndarray, teacher: np.ndarray
) -> dict[str, Any]:
    predicted = log_p.argmax(axis=1)
    pairs = _pairs(y, log_p)
    return {
        "accuracy": float((predicted == y).mean()),
        "mistakes": int((predicted != y).sum()),
        "most_confused": pairs[:5],
        "highest_rate": sorted(pairs, key=lambda pair: -pair["rate"])[:5],
        "agreement": agreement(log_p, teacher),
        "worst_source": worst_source(frame, y, predicted),
    }


def _pairs(y: np.ndarray, log_p: np.ndarray) -> list[dict[str, Any]]:
    """Return confusions, the most frequent first; ``rate`` is their share of the true class."""
    matrix = confusion_matrix(y, log_p.argmax(axis=1), len(CLASSES))
    confusions = [
        {
            "label": CLASSES[a],
            "predicted": CLASSES[b],
            "count": int(matrix[a, b]),
            "rate": float(matrix[a, b] / matrix[a].sum()),
        }
        for a, b in zip(*np.nonzero(matrix), strict=True)
        if a != b
    ]
    return sorted(confusions, key=lambda pair: (-pair["count"], -pair["rate"], pair["label"]))


def agreement(log_p: np.ndarray, teacher: np.ndarray) -> dict[str, float | None]:
    """Return a student's agreement with its teacher, from log-probabilities ``[N, C]`` of both.

    ``same`` is the share of rows with the same answer. ``kappa`` is the agreement beyond chance
    (Cohen 1960), null where chance alone agrees fully. ``kl`` is the mean of KL(teacher || student)
    in nats.
    """
    ours, theirs = log_p.argmax(axis=1), teacher.argmax(axis=1)
    matrix = confusion_matrix(theirs, ours, log_p.shape[1]) / len(ours)
    alike = float(np.trace(matrix))
    chance = float(matrix.sum(axis=0) @ matrix.sum(axis=1))
    divergence = (np.exp(teacher) * (teacher - log_p)).sum(axis=1)
    return {
        "same": alike,
        "kappa": (alike - chance) / (1 - chance) if chance < 1 else None,
        "kl": float(divergence.mean()),
    }


def worst_source(
    frame: pl.DataFrame, y: np.ndarray, predicted: np.ndarray
) -> dict[str, Any] | None:
    """Return the source of lowest accuracy and its peculiarities; ``None`` for fewer than two.

    ``by_class_mix`` is the accuracy that the other sources would lose with this source's shares of
    classes, at their own recall of each (a class that they lack keeps its accuracy here).
    ``unexplained`` is the rest of the gap. Brightness is the mean grey, the side is the shorter one
    of the face in px. Sources of fewer than ``MIN_ROWS`` rows are ignored.
    """
    sources = frame["source"].to_numpy()
    names = [name for name in np.unique(sources) if (sources == name).sum() >= MIN_ROWS]
    if len(names) < 2:
        return None
    right = predicted == y
    name = min(names, key=lambda source: right[sources == source].mean())
    in_source = sources == name
    expected = 0.0
    for label in np.unique(y[in_source]):
        of_class = y == label
        elsewhere = right[of_class & ~in_source]
        recall = elsewhere.mean() if len(elsewhere) else right[of_class & in_source].mean()
        expected += (of_class & in_source).sum() / in_source.sum() * recall
    accuracy, others = right[in_source].mean(), right[~in_source].mean()
    side = frame.select(
        pl.min_horizontal(
            pl.coalesce(pl.col("bbox_right") - pl.col("bbox_left"), "width"),
            pl.coalesce(pl.col("bbox_bottom") - pl.col("bbox_top"), "height"),
        )
    ).to_series()
    brightness = frame["brightness"].cast(pl.Float64)
    return {
        "source": str(name),
        "n": int(in_source.sum()),
        "accuracy": float(accuracy),
        "accuracy_elsewhere": float(others),
        "by_class_mix": float(others - expected),
        "unexplained": float(expected - accuracy),
        "brightness": brightness.filter(pl.Series(in_source)).mean(),
        "brightness_elsewhere": brightness.filter(pl.Series(~in_source)).mean(),
        "median_side_px": side.filter(pl.Series(in_source)).median(),
        "median_side_px_elsewhere": side.filter(pl.Series(~in_source)).median(),
    }


def _cases(frame: pl.DataFrame, y: np.ndarray, log_p: np.ndarray) -> pl.DataFrame:
    """Return every row with its answer: class, probability, runner-up class and its margin."""
    order = np.argsort(-log_p, axis=1, kind="stable")
    every = np.arange(len(y))
    top, second = np.exp(log_p[every, order[:, 0]]), np.exp(log_p[every, order[:, 1]])
    names = np.array(CLASSES)
    return frame.with_columns(
        pl.Series("predicted", names[order[:, 0]]),
        pl.Series("confidence", top),
        pl.Series("second", names[order[:, 1]]),
        pl.Series("margin", top - second),
    )


def _kinds(cases: pl.DataFrame) -> Iterator[tuple[str, pl.DataFrame]]:
    """Yield the mistakes with the highest confidence, and the answers with the lowest."""
    wrong = cases.filter(pl.col("predicted") != pl.col("label"))
    surest = wrong.sort("confidence", "sample_id", descending=[True, False])
    yield "confident_mistakes", surest.head(SHOWN)
    yield "ambiguous", cases.sort("margin", "sample_id").head(SHOWN)


def _doubts(frame: pl.DataFrame, log_p: np.ndarray) -> pl.DataFrame:
    """Return rows whose label the teacher contradicts, in the format of the label reviews."""
    first = frame["sample_id"].is_first_distinct()
    ids, kept = frame["sample_id"].filter(first).to_list(), first.to_numpy()
    held_out = np.ones(len(ids), dtype=bool)
    probs = np.exp(log_p[kept])
    return prediction_disagreements(frame.filter(first), ids, probs, held_out=held_out)


def _case_table(cases: dict[str, pl.DataFrame]) -> str:
    """Return ``cases.csv``: the cases shown, of all models."""
    return pl.concat(
        rows.select(pl.lit(name).alias("model"), pl.lit(kind).alias("kind"), *_CASE_COLUMNS)
        for name, table in cases.items()
        for kind, rows in _kinds(table)
    ).write_csv()


_CASE_COLUMNS = (
    "sample_id",
    "image_path",
    "source",
    "label",
    "predicted",
    "confidence",
    "second",
    "margin",
)


def _confusion_table(y: np.ndarray, scaled: dict[str, np.ndarray]) -> str:
    """Return ``confusions.csv``: every confusion of every model."""
    rows = [{"model": name, **pair} for name, log_p in scaled.items() for pair in _pairs(y, log_p)]
    columns = {"model": pl.String, "label": pl.String, "predicted": pl.String}
    schema = {**columns, "count": pl.Int64, "rate": pl.Float64}
    return pl.DataFrame(rows, schema=schema).write_csv()


def _sheet(rows: pl.DataFrame, root: Path) -> bytes:
    tiles = [
        Tile(
            read_tile(root, row["image_path"], box).image,
            f"{row['label']}, seen as\n{row['predicted']} {row['confidence']:.2f}\n"
            f"{row['second']} {row['confidence'] - row['margin']:.2f}",
        )
        for row, box in zip(rows.iter_rows(named=True), boxes(rows), strict=True)
    ]
    return contact_sheet(tiles)


def _page(held: dict[str, Any], cases: dict[str, pl.DataFrame], root: Path) -> str:
    shown = {
        name: {
            kind: [
                {**row, "face": embedded_face(root, row["image_path"], box)}
                for row, box in zip(rows.iter_rows(named=True), boxes(rows), strict=True)
            ]
            for kind, rows in _kinds(table)
        }
        for name, table in cases.items()
    }
    template = Path(__file__).with_name("error_analysis.html.j2")
    return render_page(template, held=held, shown=shown)
