"""A face followed to everything that was made of it, by each of its names."""

from pathlib import Path

import numpy as np
import pytest

from fer_ml.base.errors import FerError
from fer_ml.base.labels import CLASSES
from fer_ml.evidence import faces
from fer_ml.evidence.faces import Face, find_faces
from fer_ml.evidence.rows import evidence_of
from fer_ml.manifests.schema import read_manifest
from fer_ml.metrics.classification import softmax
from fer_ml.metrics.predictions import read_predictions
from fer_ml.privacy.log import Log
from fer_ml.storage.store import Store
from tests.fer_ml.evidence.conftest import MODELS, claim, purged_log, verified

BENCH = ("benchmark", "benchmark.json")
CLAIMS = (
    claim("of-a", *BENCH, "/entries/student_ce/mixed/by_source/a/accuracy"),
    claim("of-b", *BENCH, "/entries/student_ce/mixed/by_source/b/accuracy"),
    claim("run", "teacher", "reliabilitymetrics.json", "/raw/nll", partition="RN18"),
    claim("session", "demo_kpis", "demo_kpis.json", "/faces", decimals=0),
)


def found(home: Store, what: str) -> list[Face]:
    return find_faces(home, what, evidence_of(home, verified(home, *CLAIMS).claims).values(), Log())


def row_of_test(home: Store) -> dict[str, str]:
    """A row of source a that is in test."""
    held = home.current("manifest/a")
    assert held
    frame = read_manifest(held.file("a.csv"))
    return next(row for row in frame.iter_rows(named=True) if row["split"] == "test")


def test_a_face_by_each_of_its_names(home: Store) -> None:
    row = row_of_test(home)
    names = [
        *(row["sample_id"], row["sample_id"][:8], row["group_id"], row["image_path"]),
        *(row["orig_image"], str(home.root / row["image_path"])),
    ]
    for name in names:
        (face,) = found(home, name)
        assert face.row["sample_id"] == row["sample_id"], name
    raw = home.current("manifest/a").record.inputs[0].root  # type: ignore[union-attr]
    assert face.raw == f"{raw}/{row['orig_image']}"
    assert face.splits == dict.fromkeys(
        ("manifest/a", "classification_manifest", "test_all_sources_manifest", "hq_train_manifest"),
        "test",
    )


def test_what_each_model_said_of_it(home: Store) -> None:
    row = row_of_test(home)
    (face,) = found(home, row["sample_id"])
    held = home.current("benchmark")
    assert held
    said = {one.model: one for one in face.said if one.file.startswith("benchmark ")}
    assert said.keys() == MODELS.keys()
    for model, temperature in MODELS.items():
        table, y, logits = read_predictions(held.file(f"predictions/{model}__mixed.csv"))
        place = table["sample_id"].to_list().index(row["sample_id"])
        probs = softmax(logits[place : place + 1], temperature)[0]
        assert said[model].says == CLASSES[int(probs.argmax())]
        assert said[model].confidence == pytest.approx(probs.max(), rel=1e-6)
        assert said[model].right == bool(logits[place].argmax() == y[place])
    assert np.isfinite([one.confidence for one in face.said]).all()


def test_the_claims_that_count_it_and_those_made_of_a_manifest_with_it(home: Store) -> None:
    (face,) = found(home, row_of_test(home)["sample_id"])
    assert {one.id: one.counts for one in face.claims} == {
        "of-a": True,
        "of-b": False,
        "run": False,
    }


def test_a_purged_face_says_when(home: Store) -> None:
    row = row_of_test(home)
    (face,) = find_faces(home, row["sample_id"], (), purged_log(row["group_id"]))
    assert face.purged == "2026-02-03"
    assert found(home, row["sample_id"])[0].purged is None


def test_what_is_no_face_is_none(home: Store, tmp_path: Path) -> None:
    text = tmp_path / "a.txt"
    text.write_text("no image")
    for name in ("other", "0123456789", str(text), "../a.png"):
        assert found(home, name) == []


def test_a_name_of_too_many_faces_is_refused(home: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(faces, "MOST", 0)
    with pytest.raises(FerError) as caught:
        found(home, row_of_test(home)["sample_id"])
    assert caught.value.code == "ambiguous-name"
