"""A tiny lineage on disk: manifests of real images, stored logits, real networks."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from fer_ml.base.labels import CLASS_INDEX, CLASSES
from fer_ml.distillation.logits import Logits, write_logits
from fer_ml.manifests.curation import manifest_file
from fer_ml.manifests.schema import write_manifest
from fer_ml.metrics.predictions import write_predictions
from fer_ml.recipes.preprocess import Preprocess
from fer_ml.recipes.training import CE, KD, Training
from fer_ml.storage.artifact import Artifact
from fer_ml.storage.job import Job
from fer_ml.storage.store import RunFolder, Store
from fer_ml.training.checkpoint import CHECKPOINT_FILE, Checkpoint, save_checkpoint
from fer_ml.training.models import build_model

SPEC = Preprocess(size=16, clahe_clip=0.0)
RECIPE = Training(architecture="test_resnet", task=CE(), init="none", epochs=1)
ARMS = {"ce": ("ce", "ce_2", "ce_3"), "kd": ("kd", "kd_2", "kd_3"), "dkd": ("d", "d_2", "d_3")}
MANIFESTS = ("hq_train_manifest", "eval_only_manifest", "test_all_sources_manifest")


@dataclass
class Lineage:
    """Artifacts by label, and jobs over them."""

    store: Store
    frame: pl.DataFrame
    held: dict[str, Artifact]

    def put(
        self,
        asset: str,
        write: Callable[[RunFolder], None],
        inputs: Sequence[str] = (),
        partition: str | None = None,
        **splits: str,
    ) -> Artifact:
        """An artifact that ``write`` fills."""
        declared = [self.held[label].as_input() for label in inputs]
        with self.store.begin(asset, partition, inputs=declared) as run:
            write(run)
            run.splits.update(splits)
        artifact = self.store.current(asset, partition)
        assert artifact is not None
        self.held[artifact.key] = artifact
        return artifact

    def job(
        self,
        asset: str,
        inputs: Sequence[str] = (),
        partition: str | None = None,
        recipe: Any = None,
    ) -> Job[Any]:
        """A job with these inputs, or with all there are."""
        given = {label: self.held[label] for label in inputs} if inputs else dict(self.held)
        return Job(asset, partition, self.store, recipe, given, {})

    def made(self, build: Callable[..., None], job: Job[Any], *values: Any) -> Artifact:
        """What ``build`` writes for ``job``, given ``values``."""
        with self.store.begin(
            job.asset, job.partition, inputs=[a.as_input() for a in job.inputs.values()]
        ) as run:
            build(run, job, *values)
        artifact = self.store.current(job.asset, job.partition)
        assert artifact is not None
        return artifact

    def train(self, asset: str, seed: int, partition: str | None = None, t: float = 2.0) -> None:
        """A run folder of a tiny network of random weights."""
        torch.manual_seed(seed)
        network = build_model(RECIPE)
        checkpoint = Checkpoint(network.state_dict(), RECIPE, SPEC, CLASSES, 0)
        calib = self.frame.filter(pl.col("split") == "calib")

        def write(run: RunFolder) -> None:
            save_checkpoint(run.path(CHECKPOINT_FILE), checkpoint)
            run.write_json("calibration.json", {"global_temperature": t})
            write_predictions(
                run.path("predictions_calib.csv"), calib, noisy_logits(calib, seed, 1.0)
            )

        self.put(asset, write, MANIFESTS[:1], partition, checkpoint="val", temperature="calib")

    def train_arms(self) -> dict[str, Training]:
        """An experiment for each run of ``ARMS``; its record says how it was trained."""
        trainings = {}
        for number, name in enumerate(name for arm in ARMS.values() for name in arm):
            task = CE() if name.startswith("ce") else KD()
            trainings[name] = replace(RECIPE, task=task, seed=number % 3)
            self.train("student_experiment", 20 + number, name, t=1.0 + number / 10)
            artifact = self.held[f"student_experiment[{name}]"]
            recipe = {"training": json.loads(json.dumps(trainings[name].recorded()))}
            record = artifact.record.model_copy(update={"recipe": recipe})
            (artifact.folder / "record.json").write_text(record.model_dump_json())
        return trainings

    def noisy(self, seed: int) -> Callable[[pl.DataFrame], np.ndarray]:
        """What answers better than chance, and is unsure of every class."""
        held = Logits(noisy_logits(self.frame, seed, 0.8), tuple(self.frame["sample_id"]))
        return lambda frame: held.of(frame["sample_id"].to_list())


def noisy_logits(frame: pl.DataFrame, seed: int, right: float) -> np.ndarray:
    """``[N, 7]``: ``right`` on the label's class, and noise."""
    y = np.array([CLASS_INDEX[label] for label in frame["label"]])
    noise = np.random.default_rng(seed).normal(size=(len(y), 7))
    return (right * np.eye(7)[y] + noise).astype(np.float32)


@pytest.fixture(scope="module")
def lineage(
    manifest_in: Callable[..., pl.DataFrame], tmp_path_factory: pytest.TempPathFactory
) -> Lineage:
    """Two sources, 28 val, 28 calib and 56 test rows, of which 8 have a twin in training."""
    rows: list[dict[str, Any]] = []
    for number in range(112):
        split = "val" if number < 28 else "calib" if number < 56 else "test"
        rows.append(
            {
                "image_path": f"cleaned/{number}.png",
                "split": split,
                "source": "a" if number % 3 else "b",
                "brightness": float(number % 10) * 20,
                "twin_in": "train" if number >= 104 else None,
                "sex": ("female", "male", None)[number % 3] if split == "test" else None,
            }
        )
    folder = tmp_path_factory.mktemp("lineage")
    frame, store = manifest_in(folder, rows), Store(folder, "test")
    found = Lineage(store, frame, {})
    test = frame.filter(pl.col("split") == "test")
    parts = {
        MANIFESTS[0]: frame.filter(pl.col("split") != "test"),
        MANIFESTS[1]: test.filter(pl.col("source") == "b", pl.col("twin_in").is_null()),
        MANIFESTS[2]: test,
    }
    for asset, part in parts.items():
        found.put(
            asset,
            lambda run, asset=asset, part=part: write_manifest(
                part, run.path(manifest_file(asset))
            ),  # type: ignore[misc]
        )
    ids = tuple(frame["sample_id"])
    found.train("teacher", 0, "RN18", t=1.5)

    def write_teacher(run: RunFolder) -> None:
        write_logits(run.folder, Logits(noisy_logits(frame, 1, 2.0), ids))
        run.write_json(
            "logits.json", {"temperature": 1.5, "preprocess_sha256": SPEC.digest(), "rows": 112}
        )

    def write_ensemble(run: RunFolder) -> None:
        write_logits(run.folder, Logits(noisy_logits(frame, 2, 2.5), ids))
        run.write_json("ensemble.json", {"temperature": 1.2, "preprocess_sha256": SPEC.digest()})

    found.put("teacher_logits", write_teacher, ("teacher[RN18]", *MANIFESTS), "RN18")
    found.put(
        "ensemble",
        write_ensemble,
        ("teacher_logits[RN18]", *MANIFESTS[:1]),
        weights="calib",
        temperature="calib",
    )
    for number, stage in enumerate(("ce", "kd", "dkd")):
        found.train(f"student_{stage}", 10 + number)
    return found
