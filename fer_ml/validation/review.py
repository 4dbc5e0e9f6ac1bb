"""Labels worth a second look: contradicted by other sources, annotators or a model.

Both tables are ranked, most suspicious first. They are for people to review; no label is changed
here.
"""

import base64
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from fer_ml.base.errors import FerError
from fer_ml.base.labels import CLASS_INDEX, CLASSES
from fer_ml.figures.page import render_page
from fer_ml.images.pixels import encode_png
from fer_ml.manifests.schema import BOX, boxes
from fer_ml.storage.store import RunFolder
from fer_ml.validation.contact_sheets import fit, read_tile

#: Rows of a review page, and the side in px of its faces.
MAX_SHOWN = 200
THUMB_SIDE = 48
#: How far the sum of a row's probabilities may be from 1: what single precision and six digits do.
SUM_TOLERANCE = 1e-4


def source_disagreements(frame: pl.DataFrame) -> pl.DataFrame:
    """Return the rows of a manifest whose label another row of the same face contradicts.

    Rows are of one face when they share ``sample_id``, or when they share ``group_id`` and no row
    of the group has a box: the faces of one photo share a group too and are different people. Rows
    without a ``sample_id``, or with a label outside ``CLASSES``, are left to the rules of
    validation.

    One row of each face is its witness ``b``: of the rows with votes, the one with the largest
    share of votes for its own label; without votes, one whose label most sources give (ties: the
    first by class, source and path). Each row ``a`` of the face whose label differs from the
    witness's gives one row of the table, so a face of n rows gives at most n - 1.

    ``support_a`` and ``support_b`` are the shares of the witness's ``votes`` for the two labels, of
    the votes for the seven classes; null without votes. ``score = (1 + b - a) / 2`` with these
    shares: 1 when every vote is for b, 0.5 when both labels have as many. It is 1 minus the
    normalised margin of ``prediction_disagreements``, with votes in place of a model. Without
    votes, a and b are the shares of sources that give the labels. So a unanimous vote outranks a
    majority, and that outranks one source against another (0.5).

    Columns: sample_id, group_id, image_path (those of ``a``), source_a, label_a, source_b, label_b,
    votes, support_a, support_b, score, and the columns of ``a``'s box.
    """
    rows = _contested(frame)
    shares = _vote_shares(rows)
    pairs = _against_witnesses(rows, shares)
    seen = shares[pairs["row_b"].to_numpy(), pairs["class"].to_numpy()]
    voted = pl.col("voted_b")
    pairs = pairs.with_columns(
        pl.when(voted).then("votes_b").alias("votes"),
        pl.when(voted).then(pl.Series(seen)).alias("support_a"),
        pl.when(voted).then("own_b").alias("support_b"),
    )
    against = pl.coalesce("support_b", "backing_b") - pl.coalesce("support_a", "backing")
    return pairs.select(
        "sample_id",
        "group_id",
        "image_path",
        pl.col("source").alias("source_a"),
        pl.col("label").alias("label_a"),
        "source_b",
        "label_b",
        "votes",
        "support_a",
        "support_b",
        ((1 + against) / 2).alias("score"),
        *BOX,
    ).sort(
        -pl.col("score"), "sample_id", "source_a", "label_a", "image_path", "source_b", "label_b"
    )


def write_review(run: RunFolder, table: pl.DataFrame, root: Path, title: str) -> None:
    """Write ``review.csv`` with every row, and ``review.html`` with the first ones' faces."""
    run.write_text("review.csv", table.write_csv())
    run.write_text("review.html", review_html(table, root, title))


def _against_witnesses(rows: pl.DataFrame, shares: np.ndarray) -> pl.DataFrame:
    """Return rows whose label the face's witness contradicts, its columns named ``_b``."""
    every = np.arange(rows.height)
    rows = rows.with_columns(
        pl.Series("row", every),
        pl.Series("voted", shares.any(axis=1)),
        pl.Series("own", shares[every, rows["class"].to_numpy()]),
    )
    rows = rows.with_columns(pl.when("voted").then("own").otherwise("backing").alias("weight"))
    order = ["face", "voted", "weight", "class", "source", "image_path", "sample_id"]
    witnesses = rows.sort(order, descending=[name in ("voted", "weight") for name in order]).unique(
        "face", keep="first", maintain_order=True
    )
    return rows.join(witnesses, on="face", suffix="_b").filter(pl.col("class") != pl.col("class_b"))


def _contested(frame: pl.DataFrame) -> pl.DataFrame:
    """Return rows of faces that have several labels, with ``face``, ``class`` and ``backing``.

    ``class`` is the label's index, ``backing`` the share of the face's sources that give the label.
    """
    boxed = pl.any_horizontal(pl.col(name).is_not_null() for name in BOX)
    rows = frame.filter(pl.col("sample_id").is_not_null(), pl.col("label").is_in(CLASSES))
    by_group = pl.col("group_id").is_not_null() & ~boxed.any().over("group_id")
    rows = rows.with_columns(
        pl.when(by_group)
        .then(pl.format("group {}", "group_id"))
        .otherwise(pl.format("sample {}", "sample_id"))
        .alias("face"),
        pl.col("label").replace_strict(CLASS_INDEX, return_dtype=pl.Int64).alias("class"),
    )
    label = pl.col("class")
    rows = rows.filter(label.min().over("face") != label.max().over("face"))
    given = rows.select("face", "source", "class").unique().group_by("face", "class").len()
    backing = given.select(
        "face", "class", (pl.col("len") / pl.col("len").sum().over("face")).alias("backing")
    )
    return rows.join(backing, on=["face", "class"], how="left", maintain_order="left")


def _vote_shares(rows: pl.DataFrame) -> np.ndarray:
    """Return ``[rows, C]`` shares of each row's votes; 0 for all classes where there are none."""
    shares = np.zeros((rows.height, len(CLASSES)))
    voted = rows.filter(pl.col("votes").is_not_null())
    numbers = voted["votes"].str.split(";").cast(pl.List(pl.Float64), strict=False)
    whole = numbers.list.len() == len(CLASSES)
    sound = whole & numbers.list.eval(pl.element().is_finite() & (pl.element() >= 0)).list.all()
    wrong = voted.filter(~(sound & (numbers.list.drop_nulls().list.len() == len(CLASSES))))
    if wrong.height:
        path, text = wrong.select("image_path", "votes").row(0)
        raise FerError(
            f"votes are not {len(CLASSES)} numbers from 0: {text!r}",
            code="invalid-votes",
            where=path,
            allowed="one number for each class in their order, joined by ';'",
            fix="clean the source again",
        )
    votes = numbers.list.to_array(len(CLASSES)).to_numpy()
    total = votes.sum(axis=1, keepdims=True)
    shares[rows["votes"].is_not_null().to_numpy()] = np.divide(
        votes, total, out=np.zeros_like(votes), where=total > 0
    )
    return shares


def prediction_disagreements(
    frame: pl.DataFrame, sample_ids: Sequence[str], probs: np.ndarray, *, held_out: np.ndarray
) -> pl.DataFrame:
    """Return the rows of ``frame`` whose label a model contradicts that was not trained on them.

    ``probs [N, C]`` are the probabilities of ``sample_ids`` (N of them, each once), which are
    exactly the samples of ``frame``. ``held_out [N] bool`` says for each whether the model was
    trained without its group. A model agrees with its training labels. So a row that was not held
    out is an error, like ids of other samples and rows that are not probabilities.

    With p the probabilities of a row, y its label and t_j the mean of p_j over the rows with label
    j (confident learning: Northcutt, Jiang and Chuang, "Confident Learning: Estimating Uncertainty
    in Dataset Labels", JAIR 70, 2021):

    - ``self_confidence`` = p_y
    - ``normalised_margin`` = (p_y - max of p_j over j != y, + 1) / 2
    - ``likely_error``: of the classes with p_j >= t_j, the one with the largest p_j is not y. The
      row is then counted off the diagonal of the paper's confident joint.

    Both scores are in 0..1, lower for worse labels. A row is in the table when another class,
    ``predicted``, has a larger p than y. Ranked by self_confidence, then by normalised_margin. A
    class without any labelled row has no t_j, and no row is counted there.

    Columns: sample_id, group_id, image_path, source, label, predicted, self_confidence,
    normalised_margin, likely_error, and those of the box.
    """
    probs = np.asarray(probs, np.float64)
    _check_probs(sample_ids, probs, np.asarray(held_out))
    y, place = _labels_and_places(frame, sample_ids)
    p, every = probs[place], np.arange(frame.height)
    self_confidence = p[every, y]
    others = p.copy()
    others[every, y] = -1.0
    counts = np.bincount(y, minlength=len(CLASSES))
    sums = np.bincount(y, weights=self_confidence, minlength=len(CLASSES))
    limits = np.divide(sums, counts, out=np.full(len(CLASSES), np.inf), where=counts > 0)
    confident = np.where(p >= limits, p, -1.0)
    own_confident = confident[every, y]
    confident[every, y] = -1.0
    best_other = others.max(axis=1)
    return (
        frame.select("sample_id", "group_id", "image_path", "source", "label", *BOX)
        .with_columns(
            pl.Series("predicted", np.array(CLASSES)[p.argmax(axis=1)], pl.String),
            pl.Series("self_confidence", self_confidence),
            pl.Series("normalised_margin", (self_confidence - best_other + 1) / 2),
            pl.Series("likely_error", confident.max(axis=1) > own_confident),
        )
        .filter(pl.Series(best_other > self_confidence))
        .sort("self_confidence", "normalised_margin", "sample_id", "source", "label", "image_path")
        .select(*_PREDICTION_COLUMNS, *BOX)
    )


_PREDICTION_COLUMNS = (
    "sample_id",
    "group_id",
    "image_path",
    "source",
    "label",
    "predicted",
    "self_confidence",
    "normalised_margin",
    "likely_error",
)


def _check_probs(sample_ids: Sequence[str], probs: np.ndarray, held_out: np.ndarray) -> None:
    count, classes = len(sample_ids), len(CLASSES)
    if probs.shape != (count, classes) or held_out.shape != (count,) or held_out.dtype != bool:
        raise FerError(
            f"probs {list(probs.shape)} and held_out {list(held_out.shape)} {held_out.dtype} "
            f"do not match {count} samples",
            code="invalid-array",
            allowed=f"probs [{count}, {classes}], held_out [{count}] bool",
        )
    if not held_out.all():
        raise FerError(
            f"{np.count_nonzero(~held_out):,} of {count:,} samples were not held out",
            code="not-held-out",
            where=f"sample {sample_ids[int(held_out.argmin())]}",
            fix="predict each fold with a model trained on the others, and pass held-out rows only",
        )
    in_range = ((probs >= 0) & (probs <= 1)).all(axis=1)
    sound = in_range & (np.abs(probs.sum(axis=1) - 1) <= SUM_TOLERANCE)
    if not sound.all():
        first = int(sound.argmin())
        raise FerError(
            f"{np.count_nonzero(~sound):,} of {count:,} rows are not probabilities",
            code="invalid-probabilities",
            where=f"sample {sample_ids[first]}: {probs[first].tolist()}",
            allowed=f"numbers in 0..1 whose sum is 1 within {SUM_TOLERANCE}",
            fix="pass softmax outputs, not logits",
        )


def _labels_and_places(
    frame: pl.DataFrame, sample_ids: Sequence[str]
) -> tuple[np.ndarray, np.ndarray]:
    """Return the class of each row of ``frame``, and its index in ``sample_ids``."""
    wrong = frame.filter(~pl.col("label").is_in(CLASSES).fill_null(False))
    if wrong.height:
        raise FerError(
            f"label {wrong['label'][0]!r} is not one of the classes",
            code="unknown-label",
            where=wrong["image_path"][0],
            allowed=", ".join(CLASSES),
        )
    given = pl.DataFrame({"sample_id": pl.Series(sample_ids, dtype=pl.String)})
    twice = given.filter(pl.col("sample_id").is_duplicated())
    if twice.height:
        raise FerError(
            "a sample has several probabilities",
            code="duplicate-sample",
            where=f"sample {twice['sample_id'][0]}",
        )
    lacking = frame.join(given, on="sample_id", how="anti")
    foreign = given.join(frame, on="sample_id", how="anti")
    if lacking.height or foreign.height:
        raise FerError(
            f"{lacking.height:,} rows have no probabilities, and {foreign.height:,} probabilities "
            "have no row",
            code="different-rows",
            where=f"sample {pl.concat([lacking['sample_id'], foreign['sample_id']])[0]}",
            fix="pass the rows and the probabilities of the same samples",
        )
    place = frame.join(
        given.with_row_index("place"), on="sample_id", how="left", maintain_order="left"
    )
    y = frame["label"].replace_strict(CLASS_INDEX, return_dtype=pl.Int64)
    return y.to_numpy(), place["place"].to_numpy()


def review_html(table: pl.DataFrame, root: Path, title: str) -> str:
    """Return the first ``MAX_SHOWN`` rows of a review table as one page, each with its face.

    Faces are read below ``root`` and embedded; one that cannot be read is replaced by the reason.
    The page needs no other file and runs no script.
    """
    kind = next(
        (k for k in _KINDS if k.label in table.columns and k.against in table.columns), None
    )
    if kind is None:
        raise FerError(
            "not a table of disagreements",
            code="not-a-review-table",
            allowed="review.csv of label_review",
        )
    shown = table.head(MAX_SHOWN)
    often = (
        table.group_by(kind.label, kind.against)
        .len()
        .sort("len", kind.label, kind.against, descending=[True, False, False])
        .head(8)
    )
    rows = [
        {
            "rank": rank,
            "face": embedded_face(root, row["image_path"], box),
            "label": row[kind.label],
            "source": row[kind.source],
            "against": row[kind.against],
            "witness": row.get("source_b", "the model"),
            "evidence": kind.evidence(row),
            "likely": row.get("likely_error", False),
            "score": row[kind.score],
            "path": row["image_path"],
        }
        for rank, (row, box) in enumerate(
            zip(shown.iter_rows(named=True), boxes(shown), strict=True), start=1
        )
    ]
    return render_page(
        Path(__file__).with_name("review.html.j2"),
        title=title,
        total=table.height,
        rows=rows,
        often=often.rows(),
        score=kind.score.replace("_", "-"),
        meaning=kind.meaning,
    )


def embedded_face(root: Path, image_path: str | None, box: Any) -> dict[str, str]:
    """Return the face as base64 of a PNG, or the reason why there is none; the other is empty."""
    image, reason = read_tile(root, image_path, box)
    if image is None:
        return {"png": "", "reason": reason}
    thumb = fit(image, THUMB_SIDE)
    if (thumb == thumb[..., :1]).all():
        thumb = thumb[..., 0]  # A grey PNG takes half of the bytes.
    return {"png": base64.b64encode(encode_png(thumb)).decode(), "reason": ""}


def _votes_text(row: dict[str, Any]) -> str:
    """Return the row's votes as text: ``votes: 9 Neutral, 1 Sad``."""
    if row["votes"] is None:
        return "nobody voted"
    votes = sorted(zip(row["votes"].split(";"), CLASSES, strict=True), key=lambda v: -float(v[0]))
    return "votes: " + ", ".join(f"{count} {label}" for count, label in votes if float(count))


class _Kind(NamedTuple):
    """A kind of review table: the columns that its page shows, and their explanation."""

    label: str
    source: str
    against: str
    score: str
    evidence: Callable[[dict[str, Any]], str]
    meaning: str


_KINDS = (
    _Kind(
        "label_a",
        "source_a",
        "label_b",
        "score",
        _votes_text,
        "The score is 1 when all annotators voted for the other label, and 0.5 when both labels "
        "have as many votes or one source stands against another.",
    ),
    _Kind(
        "label",
        "source",
        "predicted",
        "self_confidence",
        lambda row: f"margin {row['normalised_margin']:.3f}",
        "Self-confidence is the probability that a model, trained without the face, gives to its "
        "label; the margin is 0 when another class has all of it and 0.5 when one has as much. A "
        "likely error passes the threshold of another class.",
    ),
)
