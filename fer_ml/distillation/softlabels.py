"""Soft labels: what a student is taught, with everything it must agree with."""

import io
import json
from datetime import UTC, datetime

import numpy as np
import polars as pl
from scipy.optimize import brentq

from fer_ml.distillation.teacher_logits import labels_of, read_logits
from fer_ml.errors import FerError
from fer_ml.evaluation.metrics import classification_metrics, log_softmax
from fer_ml.gates import Outcome, at_least, same
from fer_ml.job import Job
from fer_ml.labels import CLASSES
from fer_ml.manifests.curate import manifest_file, read_curated
from fer_ml.manifests.schema import read_manifest
from fer_ml.preprocess import Preprocess
from fer_ml.profiles import Profile
from fer_ml.store import Artifact, RunFolder, Store
from fer_ml.training.faces import SoftTargets

TEMPERATURES = (0.5, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0)


def mean_entropy(logits: np.ndarray, temperature: float) -> float:
    """Mean over rows of the entropy of ``softmax(logits / temperature)``, in nats (0 to ln C)."""
    log_p = log_softmax(logits, temperature)
    return float(-(np.exp(log_p) * log_p).sum(axis=1).mean())


def derive_temperature(logits: np.ndarray, target: float) -> float:
    """The T at which the mean entropy is ``target`` nats. It rises with T, so there is one."""
    low, high = 1e-2, 1e3
    if not mean_entropy(logits, low) < target < mean_entropy(logits, high):
        raise FerError(
            f"no temperature gives these soft labels a mean entropy of {target} nats",
            allowed=f"{mean_entropy(logits, low):.3f} to {mean_entropy(logits, high):.3f}",
            fix="change softlabels.target_entropy in the profile",
        )
    return float(brentq(lambda t: mean_entropy(logits, t) - target, low, high, xtol=1e-4))


def build_softlabels(run: RunFolder, job: Job) -> None:
    """``softlabels.npz`` and its companions, for the training rows of hq_train."""
    ensemble, manifest = job.input("ensemble"), job.input("hq_train_manifest")
    frame = read_curated(job, "hq_train_manifest").filter(pl.col("split") == "train")
    logits = read_logits(ensemble).of(frame["sample_id"].to_list())
    y = labels_of(frame)
    fused = ensemble.read_json("ensemble.json")
    temperature = derive_temperature(logits, job.profile.softlabels.target_entropy)
    np.savez(
        run.path("softlabels.npz"),
        logits=logits.astype(np.float16),
        y=y.astype(np.uint8),
        sample_id=np.array(frame["sample_id"].to_list(), dtype="S32"),
    )
    index = io.StringIO()
    for i, (path, source, sample_id) in enumerate(
        frame.select("image_path", "source", "sample_id").iter_rows()
    ):
        line = {
            "i": i,
            "image_path": path,
            "source": source,
            "y": int(y[i]),
            "sample_id": sample_id,
        }
        index.write(json.dumps(line, ensure_ascii=False) + "\n")
    run.write_text("softlabels_index.jsonl", index.getvalue())
    run.write_json("classorder.json", list(CLASSES))
    run.write_json(
        "hash_manifest.json",
        {
            "schema_version": 1,
            "manifest": manifest_file("hq_train_manifest"),
            "sha256": manifest.record.files[manifest_file("hq_train_manifest")].sha256,
            "manifest_sha256": manifest.sha256,
            "ensemble_sha256": ensemble.sha256,
            "teachers": {key: member["sha256"] for key, member in fused["members"].items()},
            "preprocess_sha256": fused["preprocess_sha256"],
        },
    )
    sharpness = [{"temperature": t, "mean_entropy": mean_entropy(logits, t)} for t in TEMPERATURES]
    run.write_json(
        "sharpness.json",
        {
            "schema_version": 1,
            "kd_temperature": temperature,
            "target_entropy": job.profile.softlabels.target_entropy,
            "mean_max_probability": float(np.exp(log_softmax(logits)).max(axis=1).mean()),
            "by_temperature": sharpness,
        },
    )
    run.write_json(
        "alignmentreport.json",
        {
            "schema_version": 1,
            "time": datetime.now(UTC).isoformat(timespec="seconds"),
            "manifest": manifest.key,
            "manifest_sha256": manifest.sha256,
            "split": "train",
            "rows": len(y),
            "image_size": job.profile.preprocess.size,
            "use_clahe": job.profile.preprocess.clahe_clip > 0,
            "clahe_clip": job.profile.preprocess.clahe_clip,
            "clahe_tile": job.profile.preprocess.clahe_tiles,
            "ensemble": {"weights": fused["weights"], "members": fused["members"]},
            "logits_kind": "fused",
            "ensemble_space": fused["fusion"],
            "note": "the teachers were trained on these rows (no out-of-fold labels yet)",
        },
    )
    found = classification_metrics(y, logits, fused["temperature"])
    run.write_json("ensemble_metrics.json", {"schema_version": 1, "split": "train", **found})
    run.summary.update(
        rows=len(y),
        kd_temperature=temperature,
        mean_entropy_at_1=mean_entropy(logits, 1.0),
        train_accuracy=found["accuracy"],
    )


def read_softlabels(
    artifact: Artifact, manifest: Artifact, train: pl.DataFrame, preprocess: Preprocess
) -> SoftTargets:
    """Soft labels for exactly these training rows; every mismatch is refused, naming both sides."""
    hashes = artifact.read_json("hash_manifest.json")
    _agree("manifest", hashes["manifest_sha256"], manifest.sha256, artifact)
    _agree("preprocessing", hashes["preprocess_sha256"], preprocess.digest(), artifact)
    _agree("class order", artifact.read_json("classorder.json"), list(CLASSES), artifact)
    with np.load(artifact.file("softlabels.npz"), allow_pickle=False) as held:
        logits, y = held["logits"].astype(np.float32), held["y"].astype(np.int64)
        ids = [value.decode() for value in held["sample_id"]]
    _agree("rows", len(ids), train.height, artifact)
    wrong = sum(a != b for a, b in zip(ids, train["sample_id"], strict=True))
    _agree("rows out of place", wrong, 0, artifact)
    _agree("labels that differ", int((y != labels_of(train)).sum()), 0, artifact)
    temperature = artifact.read_json("sharpness.json")["kd_temperature"]
    return SoftTargets(logits[:, None, :], temperature)


def _agree(what: str, theirs: object, ours: object, artifact: Artifact) -> None:
    if theirs != ours:
        raise FerError(
            f"soft labels do not fit this training: {what}: soft labels {theirs}, training {ours}",
            where=artifact.folder,
            fix="materialize softlabels again, after the manifest",
        )


def gate_softlabels(artifact: Artifact, store: Store, profile: Profile) -> list[Outcome]:
    """Judge the export against the manifest and the ensemble it names."""
    hashes = artifact.read_json("hash_manifest.json")
    inputs = {item.asset: item.sha256 for item in artifact.record.inputs}
    manifest = store.find("hq_train_manifest", None, inputs["hq_train_manifest"])
    with np.load(artifact.file("softlabels.npz"), allow_pickle=False) as held:
        logits, y = held["logits"].astype(np.float32), held["y"].astype(np.int64)
        ids = [value.decode() for value in held["sample_id"]]
    wanted, labels = [], np.empty(0, dtype=np.int64)
    if manifest is not None:
        rows = read_manifest(manifest.file(manifest_file("hq_train_manifest")))
        rows = rows.filter(pl.col("split") == "train")
        wanted, labels = rows["sample_id"].to_list(), labels_of(rows)
    temperature = artifact.read_json("sharpness.json")["kd_temperature"]
    return [
        same(
            "aligned_hashes",
            (hashes["manifest_sha256"], hashes["ensemble_sha256"]),
            (inputs["hq_train_manifest"], inputs["ensemble"]),
        ),
        Outcome("covers_train", ids == wanted, len(ids), len(wanted)),
        same("class_order", artifact.read_json("classorder.json"), list(CLASSES)),
        Outcome(
            "labels_agree",
            len(y) == len(labels) and bool((y == labels).all()),
            int((y != labels).sum()) if len(y) == len(labels) else -1,
            0,
        ),
        at_least(
            "soft_enough", mean_entropy(logits, temperature), 0.5, f"at T = {temperature:.2f}"
        ),
    ]
