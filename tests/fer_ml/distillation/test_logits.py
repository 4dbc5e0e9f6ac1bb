"""Who answers for which face, and the files that hold the answers."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from fer_ml.distillation import logits
from fer_ml.distillation.logits import Logits, Teacher, label_faces, read_taught
from fer_ml.recipes.training import Training, Views
from fer_ml.training.models import build_model
from fer_ml.training.prediction import predict
from fer_ml.training.views import FaceSet, face_keys, uniforms, views
from tests.refusals import refused

Make = Callable[..., FaceSet]
PLAN = Views(count=2, seed=11, augment="affine", strength=0.4, erase=0.5)
FOLD = (np.arange(29) % 3).astype(np.int8)


def test_logits_are_looked_up_by_sample_and_a_missing_one_is_refused() -> None:
    held = Logits(np.arange(21.0).reshape(3, 7), ("a", "b", "c"))
    assert held.of(["c", "a", "c"])[:, 0].tolist() == [14.0, 0.0, 14.0]
    with refused("missing-logits"):
        held.of(["x", "b", "y"])


@pytest.fixture
def teachers(recipe: Training, faces: Make) -> list[Teacher]:
    """A teacher and three without a fold each, all different and all untrained."""
    made = []
    for seed in range(4):
        torch.manual_seed(seed)
        network = build_model(recipe).eval()
        made.append(Teacher(network, 1.0 + seed, f"checkpoint {seed}", faces(1).preprocess))
    return made


@pytest.fixture
def labelled(
    teachers: list[Teacher], faces: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[FaceSet, FaceSet, Path]:
    monkeypatch.setattr(logits, "SHARD", 10)
    monkeypatch.setattr(logits, "BATCH", 4)
    train, others = replace(faces(29), fold=FOLD), faces(17, 5)
    folder = tmp_path / "out"
    folder.mkdir()
    label_faces(folder, teachers[0], teachers[1:], train, others, PLAN, keep=tmp_path / "keep")
    return train, others, folder


def test_a_training_face_is_answered_by_the_network_that_never_saw_its_fold(
    labelled: tuple[FaceSet, FaceSet, Path], teachers: list[Teacher]
) -> None:
    train, others, folder = labelled
    taught = read_taught(folder)
    by_fold = np.stack([predict(t.network, train) for t in teachers[1:]])
    own_t = np.array([t.temperature for t in teachers[1:]])
    wanted = by_fold[FOLD, np.arange(29)] / own_t[FOLD][:, None]  # the teacher's own T is 1
    np.testing.assert_allclose(taught.centre.of(train.sample_ids), wanted, atol=2e-3)
    np.testing.assert_allclose(
        taught.centre.of(others.sample_ids), predict(teachers[0].network, others), atol=2e-3
    )
    np.testing.assert_allclose(taught.in_sample, predict(teachers[0].network, train), atol=2e-3)
    assert taught.fold.tolist() == FOLD.tolist()
    assert [fold["checkpoint_sha256"][-1] for fold in taught.meta["folds"]] == ["1", "2", "3"]


def test_views_are_those_that_a_student_is_shown_again(
    labelled: tuple[FaceSet, FaceSet, Path], teachers: list[Teacher]
) -> None:
    train, _, folder = labelled
    taught = read_taught(folder)
    assert taught.train.shape == (29, 2, 7)
    for row, view in ((0, 0), (7, 1), (28, 1)):
        teacher = teachers[1 + FOLD[row]]
        draws = uniforms(face_keys(train.sample_ids), PLAN.seed, view)[[row]]
        with torch.inference_mode():
            seen = views(np.array(train.images[[row]]), draws, PLAN, train.preprocess)
            wanted = teacher.network(seen).numpy()[0] / teacher.temperature
        np.testing.assert_allclose(taught.train[row, view], wanted, atol=2e-3)


def test_finished_shards_are_not_computed_again(
    labelled: tuple[FaceSet, FaceSet, Path],
    teachers: list[Teacher],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    train, others, folder = labelled
    keep = tmp_path / "keep"
    shards = {path.name.rpartition("-")[0]: path for path in keep.iterdir()}
    assert sorted(shards) == ["others_0", "others_10", "train_0", "train_10", "train_20"]
    shards["train_10"].unlink()
    asked = []
    answers = logits._answers
    monkeypatch.setattr(
        logits, "_answers", lambda ask, rows: asked.append(rows[0]) or answers(ask, rows)
    )
    again = tmp_path / "again"
    again.mkdir()
    label_faces(again, teachers[0], teachers[1:], train, others, PLAN, keep=keep)
    assert asked == [10]
    for name in ("logits.npy", "views.npy", "in_sample.npy", "rows.npz"):
        assert (again / name).read_bytes() == (folder / name).read_bytes()


def test_without_folds_the_teacher_answers_for_all(
    teachers: list[Teacher], faces: Make, tmp_path: Path
) -> None:
    train, others = faces(29), faces(17, 5)
    label_faces(tmp_path, teachers[0], [], train, others, None, keep=tmp_path / "keep")
    taught = read_taught(tmp_path)
    wanted = predict(teachers[0].network, train)
    np.testing.assert_allclose(taught.train[:, 0], wanted, atol=2e-3)
    np.testing.assert_allclose(taught.in_sample, wanted, atol=2e-3)
    assert set(taught.fold) == {-1}
    assert not (tmp_path / "views.npy").exists()


def test_a_teacher_labels_only_faces_prepared_as_those_it_knows(
    teachers: list[Teacher], faces: Make, tmp_path: Path
) -> None:
    train, others = faces(29), faces(17, 5)
    larger = replace(train.preprocess, size=384, clahe_clip=3.0)
    teachers[2] = replace(teachers[2], preprocess=larger)
    with refused("preprocess-mismatch") as error:
        label_faces(tmp_path, teachers[0], teachers[1:3], train, others, None, keep=tmp_path / "k")
    assert "size 384" in error.value.what and "clahe_clip 3.0" in error.value.what
    assert str(error.value.where) == f"checkpoint {teachers[2].checkpoint_sha256[:12]}"
    assert not any(tmp_path.glob("*.npy"))
