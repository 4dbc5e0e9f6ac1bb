"""A small store made by hand: two raw folders, their manifests, a run, and the benchmark."""

from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from fer_ml.sources.raw import fingerprint
from fer_ml.storage.artifact import Artifact
from fer_ml.storage.record import Input, Receipt
from fer_ml.storage.store import Store
from tests.gates import blocking_rules

ENTRY = {
    "model_sha256": "1" * 64,
    "manifest": "classification_manifest",
    "manifest_sha256": "2" * 64,
    "split": "test",
    "rows": "official",
    "n": 10,
    "preprocess_sha256": "3" * 64,
    "views": "centre",
    "selection_split": False,
}
BENCHMARK = {
    "entries": {
        "ce": {"all": {**ENTRY, "acc": 0.8, "f1": 0.7519, "by": {"s": {"n": 4, "acc": 0.5}}}},
        "kd": {"all": {**ENTRY, "acc": 0.9, "f1": 0.7604}},
        "other": {"all": {**ENTRY, "split": "val", "n": 20, "acc": 0.9, "f1": 0.81}},
    },
    "total": 7,
    "parts": {"a": 3, "b": 4},
    "flag": True,
    "text": "x",
    "n": 10,
}
RECIPE = {
    "training": {
        "task": {
            "kind": "dkd",
            "ce_weight": 0.5,
            "tckd_weight": 0.5,
            "nckd_weight": 2.0,
            "temperature": None,
        },
        "epochs": 20,
        "compile": False,
        "negative": None,
    }
}
PNG = b"\x89PNG\r\n\x1a\nnot quite a picture"

Put = Callable[..., Artifact]


def judge(
    store: Store, artifact: Artifact, rule: str, passed: bool = True, *, blocking: bool = True
) -> None:
    """Write a receipt beside an artifact."""
    store.write_receipt(
        artifact,
        Receipt(
            asset=artifact.record.asset,
            partition=artifact.record.partition,
            artifact_sha256=artifact.sha256,
            rule=rule,
            blocking=blocking,
            passed=passed,
            value=0,
            limit=0,
            detail="",
            examples=(),
            checked_at=datetime.now(UTC).isoformat(),
            run_id=None,
        ),
    )


@pytest.fixture
def put(store: Store) -> Put:
    """Make an artifact of files (bytes, text, or JSON), with passing receipts."""

    def make(
        asset: str,
        files: dict[str, Any],
        inputs: Iterable[Input] = (),
        partition: str | None = None,
        recipe: dict[str, Any] | None = None,
    ) -> Artifact:
        with store.begin(asset, partition, inputs=inputs, run_id="r1", recipe=recipe) as run:
            for name, held in files.items():
                if isinstance(held, bytes):
                    run.path(name).write_bytes(held)
                elif isinstance(held, str):
                    run.write_text(name, held)
                else:
                    run.write_json(name, held)
            run.splits.update(temperature="calib")
        artifact = store.current(asset, partition)
        assert artifact is not None
        for rule in blocking_rules(asset):
            judge(store, artifact, rule)
        return artifact

    return make


@pytest.fixture
def raw(tmp_path: Path) -> dict[str, Input]:
    """Two raw folders with an image each, by their fingerprints."""
    found = {}
    for name in ("a", "b"):
        root = tmp_path / "raw" / name
        root.mkdir(parents=True)
        (root / "face.png").write_bytes(PNG + name.encode())
        found[name] = Input(asset=f"raw/{name}", sha256=fingerprint(root), root=str(root))
    return found


@pytest.fixture
def chain(put: Put, raw: dict[str, Input]) -> dict[str, Artifact]:
    """``manifest/a`` and ``manifest/b`` <- ``classification_manifest`` <- run <- ``benchmark``."""
    made = {
        f"manifest/{name}": put(
            f"manifest/{name}",
            {f"{name}.csv": "sample_id,split\n1,train\n2,test\n", "clean_report.json": {"rows": 2}},
            [raw[name]],
        )
        for name in ("a", "b")
    }
    unified = put(
        "classification_manifest",
        {
            "classification_manifest.csv": "sample_id\n1\n2\n",
            "classification_manifest.parquet": b"P",
        },
        [artifact.as_input() for artifact in made.values()],
    )
    run = put(
        "student_dkd",
        {
            "best.pt": b"weights",
            "training.json": {"kd_temperature": 2.5},
            "history.json": [1],
            "curves.png": PNG,
            "softlabels.npz": b"arrays",
            "index.jsonl": "{}\n",
        },
        [unified.as_input()],
        recipe=RECIPE,
    )
    benchmark = put(
        "benchmark",
        {
            "benchmark.json": BENCHMARK,
            "benchmark.csv": "model,split,n,f1\n"
            "ce,test,10,0.75\nkd,test,10,0.76\nother,val,20,0.81\n",
            "notes.txt": "no JSON",
            "broken.json": "{",
            "review.html": "<p>",
            "model.onnx": b"net",
        },
        [run.as_input(), unified.as_input()],
    )
    return {
        **made,
        "classification_manifest": unified,
        "student_dkd": run,
        "benchmark": benchmark,
    }
