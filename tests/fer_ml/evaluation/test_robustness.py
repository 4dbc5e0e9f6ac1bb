"""Figures on corruption sets against their own predictions, and pixels that follow from the id."""

import json
from typing import Any

import numpy as np
import polars as pl
import pytest

from fer_ml.base.labels import CLASSES
from fer_ml.bundles.bundle import Card, write_card
from fer_ml.evaluation.robustness import EVERY, measure_robustness, measured_set
from fer_ml.images.corruptions import SETS, corrupted
from fer_ml.metrics.classification import (
    calibration_error_by_chance,
    classification_metrics,
    softmax,
)
from fer_ml.metrics.predictions import read_predictions
from fer_ml.packed.packing import drawn_faces, load_faces, prepared, squares
from fer_ml.recipes.profile import CANDIDATES
from fer_ml.storage.artifact import Artifact
from fer_ml.storage.store import RunFolder
from fer_ml.training.checkpoint import CHECKPOINT_FILE, load_checkpoint
from fer_ml.training.prediction import predict
from tests.fer_ml.evaluation.conftest import SPEC

FACES = 20


#: Of the students' cards: the faces have 24 px, and a network of random weights is never sure.
LEAST_PX, UNSURE_BELOW = 20, 0.1


def write_cards(run: RunFolder) -> None:
    """The cards of three bundles without their networks."""
    for name in CANDIDATES:
        run.path(name).mkdir()
        card = Card(
            name=name,
            profile="p",
            architecture="a",
            classes=CLASSES,
            preprocess=SPEC,
            temperature=2.0,
            unsure_below=UNSURE_BELOW,
            least_px=LEAST_PX,
            model_sha256="0" * 64,
            checkpoint_sha256="0" * 64,
            data="d",
            licence="l",
            intended_use="i",
        )
        write_card(run.path(name), card)


@pytest.fixture(scope="module")
def found(lineage: Any) -> Artifact:
    facts = lineage.held["ensemble"].read_json("ensemble.json")
    facts |= {"fusion": "logits", "weights": {"RN18": 1.0}}
    facts["members"] = {"RN18": {"temperature": 1.5}}
    lineage.put("candidate_bundles", write_cards)
    path = lineage.held["ensemble"].file("ensemble.json")
    before = path.read_text()
    path.write_text(json.dumps(facts))
    made = lineage.made(measure_robustness, lineage.job("robustness"), FACES, 3)
    path.write_text(before)
    return made


def test_each_figure_is_of_its_predictions(found: Artifact) -> None:
    held = found.read_json("robustness.json")
    assert (held["set"], held["n"], held["drawn_from"]) == (
        "test_all_sources.deduplicated",
        FACES,
        48,
    )
    entry = held["entries"]["student_kd"]
    table, y, logits = read_predictions(found.file("predictions/student_kd.csv"))
    assert table.height == FACES * len(EVERY) == FACES * 52
    accuracy = {}
    for kind, strength in SETS:
        rows = (table["source"] == f"{kind} {strength:g}").to_numpy()
        cell = entry["kinds"][kind]["strengths"][f"{strength:g}"]
        wanted = classification_metrics(y[rows], logits[rows], entry["temperature"])
        assert cell["accuracy"] == pytest.approx(wanted["accuracy"])
        assert cell["macro_f1"] == pytest.approx(wanted["macro_f1"])
        assert cell["ece_scaled"] == pytest.approx(wanted["ece"])
        raw = classification_metrics(y[rows], logits[rows])
        assert cell["ece"] == pytest.approx(raw["ece"])
        chance = calibration_error_by_chance(softmax(logits[rows], entry["temperature"]))
        assert cell["ece_by_chance_high"] == pytest.approx(chance["high"])
        assert cell["temperature_holds"] == [cell["ece_scaled"] <= chance["high"], 1]
        accuracy.setdefault(kind, []).append(wanted["accuracy"])
    kinds = entry["kinds"]
    for kind, values in accuracy.items():
        assert kinds[kind]["accuracy"] == pytest.approx(np.mean(values))
        lost = kinds["clean"]["accuracy"] - kinds[kind]["accuracy"]
        assert kinds[kind]["lost"] == pytest.approx(lost)
        assert kinds[kind]["lost_low"] <= kinds[kind]["lost"] <= kinds[kind]["lost_high"]
    # Every kind counts alike, the mirror with its one strength too.
    mean = np.mean([np.mean(values) for values in accuracy.values()])
    assert kinds["all"]["accuracy"] == pytest.approx(mean)
    assert kinds["clean"]["lost"] == 0
    assert held["accuracy"]["blur"]["student_kd"] == kinds["blur"]["accuracy"]


def test_a_corrupted_face_is_prepared_as_any_other(found: Artifact, lineage: Any) -> None:
    """The stored logits are those of the network on pixels that are corrupted here by hand."""
    part = measured_set(lineage.job("robustness"))
    frame = drawn_faces(part.frame, FACES, 3)
    assert frame["twin_in"].null_count() == FACES
    checkpoint = load_checkpoint(lineage.held["student_kd"].file(CHECKPOINT_FILE))
    network, root = checkpoint.network(), lineage.store.root
    plain = predict(network, load_faces(frame, root, SPEC, root / "cache"))
    faces = squares(frame, root, SPEC.frame)
    pairs = list(zip(faces, frame["sample_id"], strict=True))
    blurred = [corrupted(face, "blur", 0.6, name, 3) for face, name in pairs]
    table, _, logits = read_predictions(found.file("predictions/student_kd.csv"))
    for name, wanted in (
        ("clean", plain),
        ("blur 0.6", predict(network, prepared(blurred, SPEC))),
    ):
        rows = (table["source"] == name).to_numpy()
        assert table.filter(rows)["sample_id"].to_list() == frame["sample_id"].to_list()
        assert logits[rows] == pytest.approx(wanted, abs=1e-5), name


def test_the_ensemble_is_its_members_on_the_same_pixels(found: Artifact) -> None:
    teacher, ensemble = (
        read_predictions(found.file(f"predictions/{name}.csv"))[2]
        for name in ("teacher_RN18", "ensemble")
    )
    assert ensemble == pytest.approx(teacher, abs=1e-5)


def test_what_the_card_answers_is_counted(found: Artifact) -> None:
    held = found.read_json("robustness.json")["entries"]
    table, y, logits = read_predictions(found.file("predictions/student_kd.csv"))
    kinds = held["student_kd"]["kinds"]
    for strength, cell in kinds["blur"]["strengths"].items():
        rows = (table["source"] == f"blur {strength}").to_numpy()
        probs = softmax(logits[rows], 2.0)
        answered = probs.max(axis=1) >= UNSURE_BELOW
        assert cell["answered"] == pytest.approx(answered.mean())
        wrong = (probs.argmax(axis=1) != y[rows])[answered]
        assert cell["wrong"] == (pytest.approx(wrong.mean()) if len(wrong) else None)
    # 24 px become 21 at the least strength, and 18 at the next.
    small = kinds["small"]["strengths"]
    assert small["0.2"]["answered"] > 0
    assert (small["0.4"]["answered"], small["0.4"]["wrong"]) == (0.0, None)
    assert kinds["small"]["answered"] == pytest.approx(small["0.2"]["answered"] / 5)
    assert kinds["small"]["wrong"] == pytest.approx(small["0.2"]["wrong"])
    assert "answered" not in held["ensemble"]["kinds"]["clean"], "it has no card"


def test_which_faces_are_drawn_follows_from_their_ids_and_a_seed() -> None:
    frame = pl.DataFrame({"sample_id": [f"s{i}" for i in range(100)]})
    drawn = drawn_faces(frame, 30, 1)["sample_id"].to_list()
    assert drawn == sorted(drawn, key=lambda name: int(name[1:])) and len(set(drawn)) == 30
    assert drawn == drawn_faces(frame, 30, 1)["sample_id"].to_list()
    assert drawn != drawn_faces(frame, 30, 2)["sample_id"].to_list()
    more = set(drawn_faces(frame, 60, 1)["sample_id"])
    assert set(drawn) < more
    assert set(drawn) == set(drawn_faces(frame.reverse(), 30, 1)["sample_id"])


def test_the_table_and_the_picture_hold_every_set(found: Artifact) -> None:
    table = pl.read_csv(found.file("robustness.csv"))
    assert table.height == 5 * (13 + 51)
    assert table.filter(pl.col("strength").is_null())["kind"].n_unique() == 13
    assert found.file("robustness.png").read_bytes().startswith(b"\x89PNG")
