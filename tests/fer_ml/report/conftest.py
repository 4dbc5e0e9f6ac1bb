"""A small run made by hand: claims, a benchmark, a student, and a report over them."""

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from fer_assets.stages.report import ReportRecipe, build
from fer_ml.base.labels import CLASSES
from fer_ml.images.pixels import encode_png
from fer_ml.recipes.builtin import sample
from fer_ml.recipes.profile import Profile
from fer_ml.storage.artifact import Artifact
from fer_ml.storage.job import Job
from fer_ml.storage.looks import SETS_FILE
from fer_ml.storage.record import Receipt
from fer_ml.storage.store import Store

#: Text of somebody else's file.
HOSTILE = "<script>x</script> **bold** | [9](javascript:a) ![z](http://e.org/z.png) [3]"


def entry(n: int = 40, *, selection: bool = False, **more: Any) -> dict[str, Any]:
    metrics = {
        "accuracy": 0.75,
        "macro_f1": 0.5,
        "nll": 1.25,
        "ece": 0.125,
        "per_class_f1": dict.fromkeys(CLASSES, 0.5),
    }
    return {
        "manifest": "test_all_sources_manifest",
        "manifest_sha256": "a" * 64,
        "split": "val" if selection else "test",
        "rows": "official",
        "n": n,
        "preprocess_sha256": "b" * 64,
        "views": "centre",
        "selection_split": selection,
        "temperature": 2.0,
        "raw": metrics,
        "temperature_scaled": {**metrics, "nll": 1.0},
        "by_source": {"ferplus": {"n": n, "accuracy": 0.75, "macro_f1": 0.5}},
        **more,
    }


INTERVALS = {"raw": {"macro_f1": {"low": 0.4, "high": 0.6}}}
WITH_CHANCE = {"intervals": INTERVALS, "ece_by_chance": {"mean": 0.017, "high": 0.024}}
BENCHMARK = {
    "entries": {
        "student_ce": {"mixed": entry(), "val": entry(9, selection=True)},
        "student_kd": {"mixed": entry(41), "val": entry(9, selection=True)},
        "student_dkd": {"mixed": entry(), "val": entry(9, selection=True)},
        "external": {
            "rows": entry(rows="deduplicated", **WITH_CHANCE),
            "vector": entry(vector_scaled={"nll": 0.875, "ece": 0.0625}),
        },
    }
}

#: Each two models once, in either order: ``difference`` is a less b.
PAIRS = """set,model_a,model_b,metric,difference,low,high,mcnemar_p
mixed,student_ce,student_dkd,accuracy,0.25,0.125,0.5,0.0625
mixed,student_ce,student_dkd,macro_f1,-0.25,-0.5,-0.125,0.0625
mixed,student_ce,student_dkd,nll,0.5,0.25,0.75,0.0625
mixed,student_ce,student_dkd,ece,0.0,-0.125,0.25,0.0625
val,student_ce,student_dkd,accuracy,0.75,0.5,1.0,1e-19
val,student_ce,student_dkd,macro_f1,0.75,0.5,1.0,1e-19
val,student_ce,student_dkd,nll,0.75,0.5,1.0,1e-19
val,student_ce,student_dkd,ece,0.75,0.5,1.0,1e-19
"""


def figure(key: str, value: float) -> dict[str, float]:
    return {key: value, "low": value - 0.1, "high": value + 0.1}


def gaps(value: float) -> dict[str, Any]:
    about = {"p_value": 0.01, "p_holm": 0.03, "verdict": "higher"}
    names = ("macro_f1", "accuracy", "nll", "ece")
    return {name: figure("difference", value) | about for name in names}


def arm(value: float, *names: str) -> dict[str, Any]:
    figures = {name: figure("mean", value) for name in ("macro_f1", "accuracy", "nll", "ece")}
    return {"experiments": names, **figures}


COMPARISON = {
    "baseline": "ce",
    "caption": "mixed: test, n = 40",
    "runs": 2,
    "level": 0.95,
    "tests": 3,
    "arms": {"ce": arm(0.4, "ce", "ce_2"), "kd": arm(0.5, "kd", "kd_2"), "x": arm(0.3, "x", "x_2")},
    "against_baseline": {"kd": gaps(0.1), "x": gaps(-0.1)},
    "steps": [
        {"before": "ce", "arm": "kd", **gaps(0.1)},
        {"before": "kd", "arm": "x", **gaps(-0.2)},
    ],
}
UNKNOWN = {"low": None, "high": None}
ONE = {"difference": 0.1, **UNKNOWN, "p_value": None, "p_holm": None, "verdict": "no verdict"}
ONE_RUN = {
    "baseline": "ce",
    "caption": "mixed: test, n = 40",
    "runs": 1,
    "level": 0.95,
    "tests": 1,
    "arms": {
        name: {"experiments": [name]}
        | {metric: {"mean": 0.4, **UNKNOWN} for metric in ("macro_f1", "accuracy", "nll", "ece")}
        for name in ("ce", "kd")
    },
    "against_baseline": {"kd": {"macro_f1": ONE}},
    "steps": [{"before": "ce", "arm": "kd", "macro_f1": ONE}],
}


def claim(name: str, sentence: str, value: Any, **more: Any) -> dict[str, Any]:
    return {
        "id": name,
        "sentence": sentence,
        "status": "grounded",
        "reason": "",
        "value": value,
        "decimals": 0,
        "artifact": {
            "asset": "student_dkd",
            "partition": None,
            "file": "numbers.json",
            "pointer": "/rows",
            "sha256": "c" * 64,
        },
        "rests_on": [{"asset": "student_dkd", "sha256": "c" * 64}],
        **more,
    }


SEEN = {"since": "2020-01-02", "decided": ["student_ce"]}
CLAIMS = [
    claim("rows", "There are 2,085 rows.", 2085),
    claim("acc", "It is right on 0.734.", 0.733681, decimals=3),
    claim(
        "pair",
        "CE is above KD by 9.1%.",
        {"left": 0.091, "right": 0.5},
        shown="9.1%",
        status="not_comparable",
        artifact={"asset": "", "partition": None, "file": "", "pointer": "", "sha256": None},
    ),
    claim(
        "late",
        HOSTILE,
        None,
        status="stale",
        reason="x_1: a *newer* one | is current",
        measured_on={"looked_before": SEEN},
    ),
]


LINEAGE = [
    {
        "asset": "student_dkd",
        "sha256": "c" * 64,
        "receipts": {"good": True, "of_note": False, "none": None},
    }
]


#: The faces of an evaluation set, and of val.
LOOKED = {"test_all_sources": ["a" * 12], "hq_train_val": ["b" * 12]}


def picture(seed: int = 3) -> bytes:
    import numpy as np

    return encode_png(np.full((20, 30, 3), seed, dtype=np.uint8))


def put(store: Store, asset: str, files: dict[str, Any], partition: str | None = None) -> Artifact:
    with store.begin(asset, partition) as run:
        for name, held in files.items():
            data = held if isinstance(held, bytes) else json.dumps(held).encode()
            run.path(name).write_bytes(data)
    artifact = store.current(asset, partition)
    assert artifact is not None
    return artifact


def judge(store: Store, artifact: Artifact, rule: str, passed: bool) -> None:
    store.write_receipt(
        artifact,
        Receipt(
            asset=artifact.record.asset,
            partition=None,
            artifact_sha256=artifact.sha256,
            rule=rule,
            blocking=True,
            passed=passed,
            value="2 epochs",
            limit=2,
            detail="",
            examples=(),
            checked_at=datetime.now(UTC).isoformat(),
            run_id=None,
        ),
    )


@pytest.fixture
def artifacts(store: Store) -> list[Artifact]:
    csv = b"name,share,note\na,0.123456,x|y\nb,1.0,*z*\nc,0.5,\n"
    numbers = {
        "split": "val",
        "n": 9,
        "by": {"a": {"f1": 0.5, "note": "*x*"}, "b": {"f1": None, "note": "y"}},
        "rows": 2085,
        "share": 0.123456,
        "text": HOSTILE,
        "none": None,
        "list": [1],
        "seen": {"looked_before": SEEN, "n": 9, "f1": {"mean": 0.25}},
    }
    student = put(
        store, "student_dkd", {"numbers.json": numbers, "rows.csv": csv, "curve.png": picture()}
    )
    judge(store, student, "budget", True)
    return [
        put(
            store,
            "report_claims",
            {"claims.json": {"title": "A *title*", "claims": CLAIMS, "lineage": LINEAGE}},
        ),
        put(
            store,
            "benchmark",
            {"benchmark.json": BENCHMARK, "pairs.csv": PAIRS.encode(), SETS_FILE: LOOKED},
        ),
        student,
        put(store, "comparison/fair", {"comparison.json": COMPARISON}),
        put(store, "comparison/one", {"comparison.json": ONE_RUN}),
        put(
            store,
            "teacher",
            {"faces.png": picture(9), "faces/wrong.png": picture(8), "numbers.json": {"a": 1}},
            "RN18",
        ),
    ]


Made = Callable[..., Artifact]


@pytest.fixture
def make(store: Store, artifacts: list[Artifact], tmp_path: Path) -> Made:
    """Build a report from a template's text; returns its artifact."""

    def made(template: str, profile: Profile | None = None, plan: Path | None = None) -> Artifact:
        path = tmp_path / "own.md.j2"
        path.write_text(template, encoding="utf-8")
        inputs = {artifact.key: artifact for artifact in artifacts}
        profile = profile or sample()
        paths = {"report": path, **({"plan": plan} if plan else {})}
        recipe = ReportRecipe.of(profile, None)
        job = Job("report", None, store, recipe, inputs, paths, looked_at=profile.looked_at)
        with store.begin("report", inputs=[a.as_input() for a in artifacts]) as run:
            build(run, job)
        report = store.current("report")
        assert report is not None
        return report

    return made
