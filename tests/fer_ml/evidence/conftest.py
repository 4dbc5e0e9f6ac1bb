"""A run made by hand, whose every figure is computed by the code that the lineage uses."""

import json
import shutil
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from demo_app.kpis import compute_kpis
from demo_app.logs import PER_FRAME_COLUMNS
from fer_ml.base.labels import CLASSES
from fer_ml.claims.trace import Tracer
from fer_ml.claims.verify import Verified, read_claims, verify
from fer_ml.evidence.pages import Around, write_evidence
from fer_ml.manifests.schema import write_manifest
from fer_ml.metrics.classification import classification_metrics
from fer_ml.metrics.groups import metrics_by
from fer_ml.metrics.predictions import write_predictions
from fer_ml.privacy.log import Entry, Log
from fer_ml.runs.logits import labels_of
from fer_ml.sources.raw import fingerprint
from fer_ml.storage.artifact import Artifact
from fer_ml.storage.record import Input, Receipt
from fer_ml.storage.store import RunFolder, Store
from tests.gates import DEMANDS, blocking_rules

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
MODELS = {"student_ce": 0.5, "student_kd": 1.7, "student_dkd": 1.0}
SCALING = {
    "weights": dict(zip(CLASSES, (0.5, 1.5, 1.0, 2.0, 0.75, 1.25, 1.0), strict=True)),
    "bias": dict(zip(CLASSES, (0.1, -0.3, 0.0, 0.2, 0.4, -0.2, -0.2), strict=True)),
}
#: What a publisher may have called a file, and what a page must only show.
HOSTILE = 'a,"b"\n<img src=x onerror=alert(1)></script>#?%'
N = 150

Fill = Callable[[RunFolder], None]


def put(
    store: Store, asset: str, fill: Fill, inputs: Iterable[Artifact | Input] = (), part: str = ""
) -> Artifact:
    """Make an artifact with a passing receipt for each blocking gate, and one that warns."""
    items = [i if isinstance(i, Input) else i.as_input() for i in inputs]
    with store.begin(asset, part or None, inputs=items, run_id="r1", recipe={"a": 1}) as run:
        fill(run)
    made = store.current(asset, part or None)
    assert made is not None
    for rule in (*blocking_rules(asset), "of_note"):
        receipt = Receipt(
            asset=asset,
            partition=part or None,
            artifact_sha256=made.sha256,
            rule=rule,
            blocking=rule != "of_note",
            passed=rule != "of_note",
            value=3,
            limit=0,
            detail=HOSTILE,
            examples=(),
            checked_at=datetime.now(UTC).isoformat(),
            run_id=None,
        )
        store.write_receipt(made, receipt)
    return made


def manifest(frame: pl.DataFrame, name: str) -> Fill:
    def fill(run: RunFolder) -> None:
        write_manifest(frame, run.path(f"{name}.csv"))
        run.write_json("curation.json", {"rows": frame.height})

    return fill


def entry(frame: pl.DataFrame, logits: np.ndarray, temperature: float, sha256: str) -> Any:
    y = labels_of(frame)
    vector = logits * [*SCALING["weights"].values()] + [*SCALING["bias"].values()]
    return {
        "model_sha256": "1" * 64,
        "manifest": "test_all_sources_manifest",
        "manifest_sha256": sha256,
        "split": "test",
        "rows": "official",
        "n": len(y),
        "preprocess_sha256": "3" * 64,
        "views": "centre",
        "selection_split": False,
        "temperature": temperature,
        "raw": classification_metrics(y, logits),
        "temperature_scaled": classification_metrics(y, logits, temperature),
        "vector_scaled": classification_metrics(y, vector),
        "intervals": {"raw": {"macro_f1": {"low": 0.25, "high": 0.5}}},
        "by_source": metrics_by(y, logits, frame["source"].to_list()),
    }


def session(run: RunFolder) -> None:
    """Two faces whose labels flip, one of them away for a while."""
    labels, lines = cycle(CLASSES[:3]), [",".join(PER_FRAME_COLUMNS)]
    for frame in range(130):
        for track in (0, 1):
            found = track == 0 or frame % 40 > 9
            label = next(labels) if frame % 5 == 0 else CLASSES[track]
            state = "unsure" if frame % 7 == 0 else "label"
            held = {"frame_index": frame, "time_sec": f"{frame / 25:.4f}", "capture_ms": 1.25}
            held |= {"frame_ms": f"{20 + frame % 11 / 3:.3f}", "face_found": int(found)}
            held |= {"state": state if found else "no_face"}
            if found:
                held |= {"track_id": track, "raw_label": label, "bbox_left": 1, "bbox_top": 1}
                held |= {"bbox_right": 9, "bbox_bottom": 9}
                held |= {"pred_label": label if state == "label" else "", "smoothed_label": label}
            lines.append(",".join(str(held.get(name, "")) for name in PER_FRAME_COLUMNS))
    run.write_text("per_frame.csv", "\n".join(lines) + "\n")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, manifest_in: Any) -> Store:
    """The artifact root: a source, manifests, a benchmark, a comparison, a run and a session."""
    root = tmp_path_factory.mktemp("evidence")
    store, rng = Store(root / "home", "test", demands=DEMANDS), np.random.default_rng(7)
    frame = manifest_in(
        store.root,
        [
            {"split": ("test", "val")[i % 5 == 0], "source": ("a", "b")[i % 3 == 0]}
            for i in range(N)
        ],
    )
    frame = frame.with_columns(
        pl.when(pl.int_range(pl.len()) == 1)
        .then(pl.lit(HOSTILE))
        .otherwise("orig_image")
        .alias("orig_image"),
        pl.lit("0;3;0;1;6;0;0").alias("votes"),
    )
    (root / "raw").mkdir()
    (root / "raw" / "1.png").write_bytes(b"1")
    raw = Input(asset="raw/a", sha256=fingerprint(root / "raw"), root=str(root / "raw"))
    own = frame.filter(pl.col("source") == "a")
    report = {"source": "a", "rows_in": own.height + 3, "rows_kept": own.height}
    report |= {"rows_excluded": 2, "rows_quarantined": 1, "splits": {"val": {}}}

    def cleaned(run: RunFolder) -> None:
        write_manifest(own, run.path("a.csv"))
        run.write_text("excluded.csv", "source,where\na,1\na,2\n")
        run.write_text("quarantine.csv", 'source,where\na,"x\ny"\n')
        run.write_json("clean_report.json", {"reports": [report]})

    source = put(store, "manifest/a", cleaned, [raw])
    unified = {"rows": N, "rows_in": N, "counts": [{"source": "b", "rows": N - own.height}]}

    def united(run: RunFolder) -> None:
        write_manifest(frame, run.path("classification_manifest.csv"))
        run.write_json("clean_report.json", {"reports": [report], "manifest": unified})

    whole = put(store, "classification_manifest", united, [source])
    test = put(store, "test_all_sources_manifest", manifest(frame, "test_all_sources"), [whole])
    train = put(store, "hq_train_manifest", manifest(frame, "hq_train"), [whole])
    put(store, "manifest_validation", validated(frame), [whole])
    part = frame.filter(pl.col("split") == "test")
    logits = {name: rng.normal(0, 2, (part.height, 7)).astype(np.float32) for name in MODELS}

    def benchmark(run: RunFolder) -> None:
        entries = {}
        for name, temperature in MODELS.items():
            write_predictions(run.path(f"predictions/{name}__mixed.csv"), part, logits[name])
            entries[name] = {"mixed": entry(part, logits[name], temperature, test.sha256)}
            run.write_json(f"calibration/{name}.json", SCALING)
        run.write_json("benchmark.json", {"entries": entries})
        run.write_text("pairs.csv", pairs(entries))

    put(store, "benchmark", benchmark, [test, train])
    put(store, "comparison/two", compared(part, logits, test.sha256), [test])
    val = frame.filter(pl.col("split") == "val")
    put(store, "teacher", trained(val, rng), [train], "RN18")
    log = put(store, "demo_session", session)

    def figures(run: RunFolder) -> None:
        run.write_json("demo_kpis.json", compute_kpis(log.file("per_frame.csv"), None))

    put(store, "demo_kpis", figures, [log])
    return store


def validated(frame: pl.DataFrame) -> Fill:
    held = {"manifest": "classification_manifest.csv", "rows_total": frame.height}
    held |= {"bad_labels": 0, "missing_paths": 0, "counts": {"by_source": {"a": 100}}}
    return lambda run: run.write_json("manifest_validation_all.json", held)


def pairs(entries: Any) -> str:
    rows = ["set,model_a,model_b,metric,difference,low,high"]
    a, b = (entries[name]["mixed"] for name in ("student_ce", "student_kd"))
    for metric, part in (("macro_f1", "raw"), ("ece", "temperature_scaled")):
        gap = a[part][metric] - b[part][metric]
        rows.append(f"mixed,student_ce,student_kd,{metric},{gap!r},{gap - 1},{gap + 1}")
    return "\n".join(rows) + "\n"


def compared(frame: pl.DataFrame, logits: dict[str, np.ndarray], sha256: str) -> Fill:
    y = labels_of(frame)
    names = ("macro_f1", "accuracy", "nll", "ece")
    found = {
        name: {m: classification_metrics(y, logits[name], t)[m] for m in names} | {"temperature": t}
        for name, t in MODELS.items()
    }
    arms = {"ce": ["student_ce"], "kd": ["student_kd", "student_dkd"]}
    means = {
        arm: {m: {"mean": np.mean([found[run][m] for run in runs])} for m in names}
        for arm, runs in arms.items()
    }
    gap = {m: {"difference": means["kd"][m]["mean"] - means["ce"][m]["mean"]} for m in names}
    held = {"manifest": "test_all_sources_manifest", "manifest_sha256": sha256, "n": len(y)}
    held |= {"baseline": "ce", "experiments": found, "against_baseline": {"kd": gap}}
    held |= {"arms": {arm: means[arm] | {"experiments": arms[arm]} for arm in arms}}
    held |= {"steps": [{"before": "ce", "arm": "kd", **gap}]}

    def fill(run: RunFolder) -> None:
        for name, values in logits.items():
            write_predictions(run.path(f"predictions/{name}.csv"), frame, values)
        run.write_json("comparison.json", held)

    return fill


def trained(frame: pl.DataFrame, rng: np.random.Generator) -> Fill:
    logits, y = rng.normal(0, 1, (frame.height, 7)).astype(np.float32), labels_of(frame)
    scaled = {"mode": "global", "global_temperature": 0.8, **classification_metrics(y, logits, 0.8)}
    held = {"split": "val", "n": len(y), "raw": classification_metrics(y, logits)}

    def fill(run: RunFolder) -> None:
        write_predictions(run.path("predictions_val.csv"), frame, logits)
        run.write_json("reliabilitymetrics.json", held | {"temperature_scaled": scaled})

    return fill


def claim(name: str, asset: str, file: str, pointer: str = "", **more: Any) -> dict[str, Any]:
    held = {
        "id": name,
        "kind": "number",
        "sentence": "It is {value}.",
        "asset": asset,
        "file": file,
    }
    return held | ({"pointer": pointer} if pointer else {}) | {"decimals": 6} | more


def purged_log(photo: str) -> Log:
    """A photo was purged."""
    entry = Entry(
        at="2026-02-03T00:00:00+00:00",
        kind="photo",
        reason="",
        photos=(photo,),
        sources=(),
        files_removed=1,
        resting=(),
    )
    return Log(entries=(entry,))


def verified(store: Store, *claims: dict[str, Any]) -> Verified:
    """Claims of the root, held against it."""
    path = store.root / "claims.yaml"
    path.write_text(json.dumps({"version": 2, "title": "T", "claims": claims}))
    return verify(read_claims(path), Tracer(store))


@pytest.fixture
def pages(home: Store) -> Callable[..., Path]:
    """Write the pages of claims; gives their folder."""

    def make(*claims: dict[str, Any], faces: bool = True) -> Path:
        write_evidence(home.root, home, verified(home, *claims), Around("test", True, faces))
        return home.root / "evidence"

    return make


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A page of Chromium that fails on any error of a script."""
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine")
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as play:
        made = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        view = made.new_page(viewport={"width": 1400, "height": 1000})
        view.faults = []
        view.on("pageerror", lambda error: view.faults.append(str(error)))
        view.on("console", lambda said: said.type == "error" and view.faults.append(said.text))
        view.on("dialog", lambda asked: (view.faults.append(asked.message), asked.dismiss()))
        yield view
        made.close()
