"""Every teacher's logits on every face that is needed later, in one pass."""

from dataclasses import dataclass

import numpy as np
import polars as pl

from fer_ml.errors import FerError
from fer_ml.gates import Outcome, same
from fer_ml.job import Job
from fer_ml.labels import CLASS_INDEX, CLASSES
from fer_ml.manifests.curate import manifest_file, read_curated
from fer_ml.manifests.schema import read_manifest
from fer_ml.profiles import Profile
from fer_ml.store import Artifact, RunFolder, Store
from fer_ml.training.checkpoint import CHECKPOINT_FILE, load_checkpoint
from fer_ml.training.loop import predict
from fer_ml.training.packing import load_faces

NEEDED = ("hq_train_manifest", "test_all_sources_manifest", "eval_only_manifest")


@dataclass(frozen=True)
class Logits:
    """``values [N, C] float32`` and the sample they belong to; a lookup by ``sample_id``."""

    values: np.ndarray
    sample_ids: tuple[str, ...]

    def of(self, sample_ids: list[str] | tuple[str, ...]) -> np.ndarray:
        """The rows of ``sample_ids``, in that order; a missing one is a ``FerError``."""
        index = {sample_id: i for i, sample_id in enumerate(self.sample_ids)}
        missing = [sample_id for sample_id in sample_ids if sample_id not in index]
        if missing:
            raise FerError(
                f"{len(missing)} of {len(sample_ids)} faces have no logits, first {missing[0]}",
                fix="materialize teacher_logits again, after the manifests",
            )
        return self.values[[index[sample_id] for sample_id in sample_ids]]


def faces_needed(frames: list[pl.DataFrame]) -> pl.DataFrame:
    """Each distinct face of several manifests once, in order of first appearance."""
    return pl.concat(frames).unique("sample_id", keep="first", maintain_order=True)


def build_teacher_logits(run: RunFolder, job: Job) -> None:
    """``logits.npz`` of one teacher: logits float16 ``[N, 7]``, sample_id."""
    teacher = job.input("teacher", job.partition)
    checkpoint = load_checkpoint(teacher.file(CHECKPOINT_FILE))
    frame = faces_needed([read_curated(job, asset) for asset in NEEDED])
    faces = load_faces(frame, job.store.root, checkpoint.preprocess, job.store.root / "cache")
    logits = predict(checkpoint.network(), faces)
    write_logits(run, Logits(logits, faces.sample_ids))
    run.write_json(
        "logits.json",
        {
            "schema_version": 1,
            "classes": list(CLASSES),
            "rows": len(faces),
            "teacher": teacher.as_input().model_dump(),
            "temperature": teacher.read_json("calibration.json")["global_temperature"],
            "preprocess_sha256": checkpoint.preprocess.digest(),
            "manifests": {asset: job.input(asset).sha256 for asset in NEEDED},
            "view": "centre",
            "out_of_fold": False,
        },
    )
    run.summary.update(rows=len(faces))


def write_logits(run: RunFolder, logits: Logits, name: str = "logits.npz") -> None:
    """Write logits and their sample ids; no pickled objects inside."""
    np.savez(
        run.path(name),
        logits=logits.values.astype(np.float16),
        sample_id=np.array(logits.sample_ids, dtype="S32"),
    )


def read_logits(artifact: Artifact, name: str = "logits.npz") -> Logits:
    """Read what ``write_logits`` wrote."""
    with np.load(artifact.file(name), allow_pickle=False) as held:
        return Logits(
            held["logits"].astype(np.float32),
            tuple(value.decode() for value in held["sample_id"]),
        )


def labels_of(frame: pl.DataFrame) -> np.ndarray:
    """Class indices ``[N] int64`` of a manifest's rows."""
    return np.array([CLASS_INDEX[label] for label in frame["label"]], dtype=np.int64)


def gate_logits(artifact: Artifact, store: Store, profile: Profile) -> list[Outcome]:
    """Judge one teacher's logits."""
    meta = artifact.read_json("logits.json")
    logits = read_logits(artifact)
    wanted: set[str] = set()
    for asset in NEEDED:
        manifest = store.find(asset, None, meta["manifests"][asset])
        if manifest is not None:
            wanted |= set(read_manifest(manifest.file(manifest_file(asset)))["sample_id"])
    bad = int((~np.isfinite(logits.values)).sum())
    return [
        same("covers_manifests", len(set(logits.sample_ids) & wanted), len(wanted)),
        same("class_order", meta["classes"], list(CLASSES)),
        Outcome("finite", bad == 0, bad, 0),
    ]
