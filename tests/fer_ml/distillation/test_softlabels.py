"""Sharpness, the temperature derived from it, and every mismatch that must be refused."""

import math
from typing import Any

import numpy as np
import polars as pl
import pytest
from scipy.stats import entropy

from fer_ml.distillation.softlabels import derive_temperature, mean_entropy, read_softlabels
from fer_ml.errors import FerError
from fer_ml.evaluation.metrics import softmax
from fer_ml.labels import CLASSES
from fer_ml.preprocess import Preprocess
from fer_ml.store import Artifact, Store

SPEC = Preprocess(size=16)
N = 6
LOGITS = np.random.default_rng(0).normal(size=(N, 7)) * 8
IDS = tuple(f"{i:032x}" for i in range(N))
Y = np.arange(N)
ROWS = pl.DataFrame({"sample_id": IDS, "label": [CLASSES[i] for i in Y]})


@pytest.mark.parametrize("t", [0.5, 1.0, 4.0])
def test_mean_entropy_is_scipys(t: float) -> None:
    assert mean_entropy(LOGITS, t) == pytest.approx(entropy(softmax(LOGITS, t), axis=1).mean())


def test_mean_entropy_runs_from_zero_to_ln_c() -> None:
    assert mean_entropy(LOGITS, 1e-3) == pytest.approx(0, abs=1e-9)
    assert mean_entropy(LOGITS, 1e6) == pytest.approx(math.log(7), abs=1e-6)
    assert mean_entropy(np.zeros((2, 7)), 1.0) == pytest.approx(math.log(7))
    values = [mean_entropy(LOGITS, t) for t in np.geomspace(0.05, 100, 40)]
    assert values == sorted(values)


@pytest.mark.parametrize("target", [0.05, 0.5, 1.0, 1.5, 1.85])
def test_the_derived_temperature_hits_its_target(target: float) -> None:
    assert mean_entropy(LOGITS, derive_temperature(LOGITS, target)) == pytest.approx(
        target, abs=1e-3
    )


def test_a_target_that_no_temperature_reaches_is_refused() -> None:
    tied = np.zeros((3, 7))
    tied[:, :2] = 1e6  # Two classes forever equal: the entropy never falls below ln 2.
    with pytest.raises(FerError, match=r"entropy of 0\.5") as caught:
        derive_temperature(tied, 0.5)
    assert caught.value.allowed.startswith("0.693 to")
    with pytest.raises(FerError, match="no temperature"):
        derive_temperature(np.zeros((3, 7)), 1.0)


def make(store: Store, **changes: Any) -> Artifact:
    """Soft labels for ``ROWS``, with ``changes`` to what their files say."""
    said = {
        "manifest_sha256": manifest(store).sha256,
        "preprocess_sha256": SPEC.digest(),
        "classes": list(CLASSES),
        "ids": IDS,
        "y": Y,
        **changes,
    }
    with store.begin("softlabels") as run:
        hashes = {key: said[key] for key in ("manifest_sha256", "preprocess_sha256")}
        run.write_json("hash_manifest.json", hashes)
        run.write_json("classorder.json", said["classes"])
        run.write_json("sharpness.json", {"kd_temperature": 2.5})
        np.savez(
            run.path("softlabels.npz"),
            logits=LOGITS[: len(said["ids"])].astype(np.float16),
            y=said["y"].astype(np.uint8),
            sample_id=np.array(said["ids"], dtype="S32"),
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
    held = read_softlabels(make(store), manifest(store), ROWS, SPEC)
    np.testing.assert_allclose(held.logits[:, 0], LOGITS, rtol=1e-3)
    assert held.view_seed is None
    assert held.logits.dtype == np.float32
    assert held.kd_temperature == 2.5


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
    ],
)
def test_every_mismatch_is_refused_with_both_sides(
    store: Store, changes: dict[str, Any], what: str, theirs: str, ours: str | None
) -> None:
    artifact = make(store, **changes)
    with pytest.raises(FerError) as caught:
        read_softlabels(artifact, manifest(store), ROWS, SPEC)
    ours = ours or manifest(store).sha256
    assert f"{what}: soft labels {theirs}, training {ours}" in caught.value.what
    assert caught.value.where == str(artifact.folder)


def test_another_preprocessing_or_manifest_of_the_training_is_refused(store: Store) -> None:
    artifact = make(store)
    with pytest.raises(FerError, match="preprocessing"):
        read_softlabels(artifact, manifest(store), ROWS, Preprocess(size=16, margin=0.2))
    with store.begin("hq_train_manifest") as run:
        run.write_text("m.csv", "other rows")
    with pytest.raises(FerError, match="manifest"):
        read_softlabels(artifact, manifest(store), ROWS, SPEC)
