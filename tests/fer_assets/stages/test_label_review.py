"""``label_review``: the one face that two sources label differently."""

from pathlib import Path

import polars as pl

from tests.fer_assets.stages.manifests import ROWS, all_made, held


def test_its_files(tmp_path: Path) -> None:
    store = all_made(tmp_path)
    artifact = held(store, "label_review")
    rows = pl.read_csv(artifact.file("review.csv"))
    assert rows["image_path"].str.contains(f"/{ROWS - 1}__").all()
    assert artifact.record.summary["rows"] == rows.height == 1
    page = artifact.file("review.html").read_text(encoding="utf-8")
    assert "Labels that two sources see differently" in page
