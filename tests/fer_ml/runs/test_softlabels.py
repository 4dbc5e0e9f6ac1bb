"""Every mismatch between soft labels and a training must be refused."""

from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl
import pytest

from fer_ml.base.labels import CLASSES
from fer_ml.packed.format import soft_file
from fer_ml.recipes.preprocess import Frame, Preprocess
from fer_ml.recipes.training import KD, Training
from fer_ml.runs.softlabels import read_softlabels
from fer_ml.storage.artifact import Artifact
from fer_ml.storage.store import Store
from tests.refusals import refused

SPEC = Preprocess(size=16)
N = 6
LOGITS = np.random.default_rng(0).normal(size=(N, 7)) * 8
IDS = tuple(f"{i:032x}" for i in range(N))
Y = np.arange(N)
ROWS = pl.DataFrame({"sample_id": IDS, "label": [CLASSES[i] for i in Y]})


VIEWS = 2
PLAN = {"count": VIEWS, "seed": 5, "augment": "affine", "strength": 0.3, "erase": 0.0}
RECIPE = Training(architecture="any", task=KD(), init="none", epochs=1, strength=0.3)


def make(store: Store, **changes: Any) -> Artifact:
    """Soft labels for ``ROWS``, with ``changes`` to what their files say."""
    said = {
        "manifest_sha256": manifest(store).sha256,
        "preprocess_sha256": SPEC.digest(),
        "classes": list(CLASSES),
        "ids": IDS,
        "y": Y,
        "view_seed": 5,
        "views": PLAN,
        **changes,
    }
    with store.begin("softlabels") as run:
        hashes = {key: said[key] for key in ("manifest_sha256", "preprocess_sha256", "views")}
        run.write_json("hash_manifest.json", hashes)
        run.write_json("classorder.json", said["classes"])
        kinds = {"standard": {"kd_temperature": 2.5}, "centre": {"kd_temperature": 3.5}}
        run.write_json("sharpness.json", {"kinds": kinds})
        for kind, seed in (("standard", said["view_seed"]), ("centre", -1)):
            views = VIEWS if kind == "standard" else 1
            logits = np.repeat(LOGITS[: len(said["ids"]), None], views, axis=1)
            np.savez(
                run.path(soft_file(kind)),
                logits=logits.astype(np.float16),
                y=said["y"].astype(np.uint8),
                sample_id=np.array(said["ids"], dtype="S32"),
                view_seed=np.int64(seed),
            )
    artifact = store.current("softlabels")
    assert artifact is not None
    return artifact


def manifest(store: Store) -> Artifact:
    if store.current("hq_train_manifest") is None:
        with store.begin("hq_train_manifest") as run:
            run.write_text("m.csv", "rows")
    artifact = store.current("hq_train_manifest")
    assert artifact is not None
    return artifact


def test_matching_soft_labels_are_read(store: Store) -> None:
    held = read_softlabels(make(store), manifest(store), ROWS, SPEC, RECIPE)
    np.testing.assert_allclose(held.logits[:, 1], LOGITS, rtol=1e-3)
    assert held.logits.shape == (N, VIEWS, 7)
    assert held.logits.dtype == np.float32
    assert (held.view_seed, held.kd_temperature) == (5, 2.5)


def test_a_centre_view_is_one_that_the_student_augments_as_it_likes(store: Store) -> None:
    recipe = replace(RECIPE, soft_labels="centre", strength=1.0)
    held = read_softlabels(make(store), manifest(store), ROWS, SPEC, recipe)
    assert held.logits.shape == (N, 1, 7)
    assert (held.view_seed, held.kd_temperature) == (None, 3.5)


def test_another_augmentation_than_the_teachers_saw_is_refused(store: Store) -> None:
    for field, value in (("strength", 0.4), ("erase", 0.25), ("augment", "crop")):
        changed = replace(RECIPE, **{field: value})  # type: ignore[arg-type]
        with refused("soft-labels-mismatch") as caught:
            read_softlabels(make(store), manifest(store), ROWS, SPEC, changed)
        assert f"{field}: soft labels {PLAN[field]}, training {value}" in caught.value.what


SWAPPED = (IDS[1], IDS[0], *IDS[2:])


@pytest.mark.parametrize(
    ("changes", "what", "theirs", "ours"),
    [
        ({"manifest_sha256": "old"}, "manifest", "old", None),
        ({"preprocess_sha256": "p"}, "preprocessing", "p", SPEC.digest()),
        ({"classes": list(CLASSES[::-1])}, "class order", str(list(CLASSES[::-1])), "['Angry'"),
        ({"ids": IDS[:5], "y": Y[:5]}, "rows", "5", "6"),
        ({"ids": SWAPPED}, "rows out of place", "2", "0"),
        ({"ids": (*IDS[:5], "x")}, "rows out of place", "1", "0"),
        ({"y": Y[::-1]}, "labels that differ", "6", "0"),
        ({"view_seed": 6}, "view seed", "6", "5"),
        ({"views": {**PLAN, "count": 3}}, "number of views", "2", "3"),
    ],
)
def test_every_mismatch_is_refused_with_both_sides(
    store: Store, changes: dict[str, Any], what: str, theirs: str, ours: str | None
) -> None:
    artifact = make(store, **changes)
    with refused("soft-labels-mismatch") as caught:
        read_softlabels(artifact, manifest(store), ROWS, SPEC, RECIPE)
    ours = ours or manifest(store).sha256
    assert f"{what}: soft labels {theirs}, training {ours}" in caught.value.what
    assert caught.value.where == str(artifact.folder)


def test_another_preprocessing_or_manifest_of_the_training_is_refused(store: Store) -> None:
    artifact = make(store)
    with refused("soft-labels-mismatch"):
        read_softlabels(
            artifact, manifest(store), ROWS, Preprocess(size=16, frame=Frame(1.2)), RECIPE
        )
    with store.begin("hq_train_manifest") as run:
        run.write_text("m.csv", "other rows")
    with refused("soft-labels-mismatch"):
        read_softlabels(artifact, manifest(store), ROWS, SPEC, RECIPE)
