"""Soft-label exports: arrays, index and companions are held against each other."""

import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.fer_ml.adoption import first_pipeline as old
from tests.fer_ml.adoption.conftest import Adopt, failed
from tests.refusals import refused


def save(folder: Path, **changes: np.ndarray) -> None:
    with np.load(folder / "softlabels.npz") as held:
        arrays = dict(held)
    np.savez(folder / "softlabels.npz", **{**arrays, **changes})


def line(folder: Path, index: int, **changes: Any) -> None:
    path = folder / "softlabels_index.jsonl"
    lines = path.read_text().splitlines()
    lines[index] = json.dumps({**json.loads(lines[index]), **changes})
    path.write_text("\n".join(lines) + "\n")


def wrong_labels(folder: Path) -> None:
    y = np.arange(old.SOFT_ROWS) % 7
    save(folder, y=np.roll(y, 1).astype(np.uint8))


def test_a_sound_export(tmp_path: Path, adopt: Adopt) -> None:
    artifact = adopt(old.softlabels(tmp_path / "s"))
    assert failed(artifact) == set()
    assert artifact.record.summary["rows"] == old.SOFT_ROWS
    assert set(old.softlabels(tmp_path / "again").iterdir()) and "softlabels.npz" in (
        artifact.record.files
    )
    told = "\n".join(artifact.read_json("adoption.json")["unverified"])
    for words in ("teachers' files are named, not hashed", "no manifest with the named hash"):
        assert words in told


@pytest.mark.parametrize(
    ("plant", "check"),
    [
        (lambda f: line(f, 3, y=5), "index_labels_agree"),
        (lambda f: line(f, 3, i=9), "index_in_order"),
        (lambda f: line(f, 3, image_path="a/2.png"), "index_paths_once"),
        (lambda f: save(f, logits=np.zeros((59, 7), np.float16)), "rows_are_index_lines"),
        (lambda f: save(f, logits=np.full((60, 7), np.inf, np.float16)), "logits_finite"),
        (lambda f: save(f, y=np.full(60, 7, np.uint8)), "labels_are_classes"),
        (wrong_labels, "accuracy_of_logits"),
        (lambda f: old.write(f / "classorder.json", ["Neutral", "Angry"]), "class_order_of"),
        (lambda f: old.write(f / "hash_manifest.json", {"sha256": "1" * 64}), "one_manifest"),
        (lambda f: old.write(f / "alignmentreport.json", {"rows": 61}), "rows_as_reported"),
        (
            lambda f: old.write(f / "alignmentreport.json", {"ensemble": {"weights": [0.5, 0.6]}}),
            "weights_sum_to_one",
        ),
        (lambda f: old.write(f / "ensemble_metrics.json", {"accuracy": 0.5001}), "ensemble_accur"),
    ],
)
def test_one_planted_contradiction(
    tmp_path: Path, adopt: Adopt, plant: Callable[[Path], None], check: str
) -> None:
    folder = old.softlabels(tmp_path / "s")
    plant(folder)
    assert any(name.startswith(check) for name in failed(adopt(folder)))


def bomb(folder: Path) -> None:
    """A zip that says it unpacks to more than is sensible."""
    with zipfile.ZipFile(folder / "softlabels.npz", "w") as archive:
        archive.writestr("logits.npy", b"x")
    data = bytearray((folder / "softlabels.npz").read_bytes())
    at = data.index(b"PK\x01\x02")
    data[at + 24 : at + 28] = (0xFFFFFFF0).to_bytes(4, "little")
    data = data[:at] + bytes(data[at : data.index(b"PK\x05\x06")]) * 3 + data[data.index(b"PK\x05\x06") :]  # noqa: E501  # fmt: skip
    end = data.index(b"PK\x05\x06")
    data[end + 8 : end + 12] = (3).to_bytes(2, "little") * 2
    data[end + 12 : end + 16] = (end - at).to_bytes(4, "little")
    (folder / "softlabels.npz").write_bytes(bytes(data))


@pytest.mark.parametrize(
    ("plant", "code"),
    [
        (
            lambda f: np.savez(f / "softlabels.npz", logits=np.array([{}]), y=np.zeros(1)),
            "damaged-npz",
        ),
        (
            lambda f: np.savez(f / "softlabels.npz", logits=np.zeros((3, 6)), y=np.zeros(3)),
            "invalid-array",
        ),
        (lambda f: save(f, y=np.zeros(60)), "invalid-array"),
        (lambda f: (f / "softlabels.npz").write_bytes(b"PK\x03\x04"), "damaged-npz"),
        (bomb, "archive-too-large"),
        (lambda f: (f / "softlabels_index.jsonl").write_text("{\n"), "invalid-json"),
        (lambda f: (f / "softlabels_index.jsonl").write_text("[1]\n"), "invalid-json"),
        (
            lambda f: (f / "softlabels_index.jsonl").write_text(f'{{"i": "{"0" * 70_000}"}}'),
            "invalid-json",
        ),
        (lambda f: (f / "classorder.json").write_text("{}"), "unexpected-content"),
        (lambda f: (f / "alignmentreport.json").write_text("[" * 100_000), "invalid-json"),
        (lambda f: (f / "hash_manifest.json").write_text("[]"), "unexpected-content"),
    ],
)
def test_damage_is_refused_and_leaves_nothing(
    tmp_path: Path, adopt: Adopt, plant: Callable[[Path], Any], code: str
) -> None:
    folder = old.softlabels(tmp_path / "s")
    plant(folder)
    with refused(code):
        adopt(folder)
    home = tmp_path / "home" / "sample"
    assert [path for path in home.rglob("*") if path.is_file()] == []
    assert list((home / ".partial").iterdir()) == []
