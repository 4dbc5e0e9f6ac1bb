"""A manifest judged part by part gets the verdict of one that is judged whole."""

import itertools
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from fer_ml.base import buckets
from fer_ml.manifests.schema import SCHEMA
from fer_ml.validation.judging import judge_manifest
from fer_ml.validation.measures import count_rows
from fer_ml.validation.report import report
from fer_ml.validation.rules import RULES, Evidence
from fer_ml.validation.table import FINDING_SCHEMA

LOOKS = {
    "state": pl.String(),
    "detail": pl.String(),
    "format": pl.String(),
    "image_width": pl.Int32(),
    "image_height": pl.Int32(),
    "photo": pl.String(),
    "face": pl.String(),
    "near": pl.String(),
}
WHOLE = 1 << 20
few = st.sampled_from


@st.composite
def rows_of(draw: st.DrawFn) -> dict[str, Any]:
    """A row of few values, so that many rows share one; a few cells are faulty or empty."""
    path = draw(few(["a.png", "A.png", "b.png", "\u00e9.png", "e\u0301.png", None]))
    state = {None: "missing", "b.png": "undecodable"}.get(path, "ok")
    photo = draw(few(["p0", "p1", "p2", "p3"])) if state == "ok" else None
    return {
        "image_path": path,
        "label": draw(few(["Happy", "Sad", "bored", None])),
        "split": draw(few(["train", "val", "test", "test", "dev", None])),
        "source": draw(few(["s", "t", None])),
        "sample_id": draw(few(["f0", "f1", "f2"])),
        "group_id": draw(few(["p0", "p1", "g0", "g1", "g2", None])),
        "width": 48,
        "height": draw(few([48, 47])),
        "brightness": draw(few([None, 8.0, 90.5])),
        "twin_in": draw(few([None, None, "train"])),
        "state": state,
        "detail": None if state == "ok" else f"is {state}",
        "format": draw(few(["PNG", "JPEG"])) if state == "ok" else None,
        "image_width": 48,
        "image_height": 48,
        "photo": photo,
        "face": photo and draw(few(["f0", "f1", "f2", "f3"])),
        "near": photo and draw(few([photo, "n0", "n1"])),
    }


def evidence_of(rows: list[dict[str, Any]]) -> Evidence:
    frame = pl.DataFrame(
        [{"line": line, **row} for line, row in enumerate(rows, 2)],
        schema={"line": pl.Int64(), **SCHEMA, **LOOKS},
    )
    nothing = pl.DataFrame(schema=FINDING_SCHEMA)
    return Evidence(frame, nothing, nothing, ("CRLF line ends",))


def twins_of(rows: pl.DataFrame) -> dict[str, dict[str, int]]:
    """Test rows by source, and those with a twin; row against row."""
    found: dict[str, dict[str, int]] = {}
    every = rows.to_dicts()
    for row in every:
        if row["split"] == "test":
            counts = found.setdefault(row["source"] or "None", {"test_rows": 0, "with_twin": 0})
            counts["test_rows"] += 1
            counts["with_twin"] += row["twin_in"] is not None or any(
                row[key] is not None and row[key] == other[key]
                for other in every
                if other["split"] not in (None, "test")
                for key in ("group_id", "photo", "near")
            )
    return dict(sorted(found.items()))


@given(
    st.lists(rows_of(), min_size=1, max_size=24),
    st.lists(st.integers(0, 24), max_size=4),
    st.sampled_from([1, 3, WHOLE]),
)
@settings(max_examples=150)
def test_parts_and_buckets_do_not_show(
    rows: list[dict[str, Any]], cuts: list[int], rows_a_bucket: int
) -> None:
    """Every finding, count and twin, against the rules on all rows at once and plain loops."""
    whole = evidence_of(rows)
    ends = [0, *sorted(min(cut, len(rows)) for cut in cuts), len(rows)]

    def parts() -> Iterator[Evidence]:
        for start, end in itertools.pairwise(ends):
            yield Evidence(whole.rows[start:end], whole.malformed, whole.mistyped, whole.dialect)

    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(buckets, "ROWS_A_BUCKET", rows_a_bucket)
        verdict = judge_manifest(parts, "any_manifest", Path(folder), rows=len(rows))
    wanted = pl.concat(
        rule(whole).select(pl.lit(name).alias("rule"), "line", "image_path", "detail")
        for name, rule in RULES.items()
    )
    assert_frame_equal(verdict.findings, wanted)
    told = report(verdict, asset="any_manifest", manifest="m.csv", root="r")
    assert told["test_twins"] == twins_of(whole.rows)
    opened = {
        r["image_path"]: r["state"] for r in rows if r["image_path"] and r["state"] != "missing"
    }
    decoded = sum(state == "ok" for state in opened.values())
    assert told["decode"] == {
        "attempted": len(opened),
        "ok": decoded,
        "fail": len(opened) - decoded,
    }
    assert told["rows_total"] == len(rows)
    assert_frame_equal(verdict.counts, count_rows([whole.rows]), check_row_order=False)
    assert set(verdict.places["line"]) == set(wanted["line"]) - {1}


def test_no_row_and_one_row(tmp_path: Path) -> None:
    row = {"image_path": "a.png", "label": "Sad", "split": "dev", "source": "s", "state": "ok"}
    for rows in ([], [row]):
        evidence = evidence_of(rows)
        verdict = judge_manifest(lambda part=evidence: [part], "any_manifest", tmp_path)
        told = report(verdict, asset="any_manifest", manifest="m.csv", root="r")
        assert told["rows_total"] == len(rows)
        assert told["rules"]["bad_splits"]["value"] == len(rows)
