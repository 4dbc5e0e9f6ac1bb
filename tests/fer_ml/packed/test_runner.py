"""A packed training runs from its folder alone, and its results speak of the saved bytes."""

import itertools
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from fer_ml.base.reading import sha256_file
from fer_ml.metrics.classification import classification_metrics
from fer_ml.packed.format import Step, images_file, read_job, write_job, write_rows
from fer_ml.packed.runner import run_job
from fer_ml.recipes.training import DIST, DKD, KD
from fer_ml.training.checkpoint import load_checkpoint
from fer_ml.training.loop import ALONE
from fer_ml.training.models import weights_hash
from fer_ml.training.prediction import predict
from fer_ml.training.views import FaceSet, SoftTargets
from tests.refusals import refused

ROOT = Path(__file__).parents[3]
Job = Callable[..., Path]
Make = Callable[..., FaceSet]
Soft = Callable[..., SoftTargets]


def read(folder: Path, name: str) -> Any:
    return json.loads((folder / name).read_text())


def test_metrics_are_those_of_the_saved_bytes(job_of: Job, faces: Make, tmp_path: Path) -> None:
    (run,) = run_job(job_of(), tmp_path / "runs", ALONE)
    checkpoint = load_checkpoint(run / "best.pt")
    digest = sha256_file(run / "best.pt")
    metrics, calibration = read(run, "reliabilitymetrics.json"), read(run, "calibration.json")
    assert metrics["checkpoint_sha256"] == calibration["checkpoint_sha256"] == digest
    assert (metrics["split"], metrics["n"]) == ("val", 28)
    assert (calibration["fitted_on"], calibration["n"]) == ("calib", 21)
    again = predict(checkpoint.network(), faces(28, 9))
    assert metrics["raw"] == classification_metrics(faces(28, 9).y, again)
    history, facts = read(run, "history.json"), read(run, "training.json")
    assert metrics["raw"] == history[facts["best_epoch"]]["val"], "of the best epoch, not the last"
    assert facts["best_weights_sha256"] == weights_hash(checkpoint.model)
    assert (facts["init"], facts["init_sha256"]) == ("none", "")
    assert not list(run.glob("snapshot*"))


def test_weights_are_safetensors_too_and_the_optimiser_is_in_neither(
    job_of: Job, tmp_path: Path
) -> None:
    (run,) = run_job(job_of(), tmp_path / "runs", ALONE)
    held = torch.load(run / "best.pt", weights_only=True)
    assert set(held) == {"schema_version", "model", "recipe", "preprocess", "classes", "epoch"}
    assert weights_hash(load_file(run / "best.safetensors")) == weights_hash(held["model"])


def test_a_chain_starts_each_step_from_the_best_of_the_one_before(
    job_of: Job, soft_of: Soft, tmp_path: Path
) -> None:
    chain = job_of(
        {},
        {"task": KD(), "init": "previous", "epochs": 1},
        {"task": DKD(), "init": "previous", "epochs": 3},
        soft=soft_of(2),
    )
    runs = run_job(chain, tmp_path / "runs", ALONE)
    facts = [read(run, "training.json") for run in runs]
    assert [f["epochs_run"] for f in facts] == [2, 1, 3], "each budget is its own"
    assert all(f["steps"] > 0 for f in facts)
    for before, after in itertools.pairwise(facts):
        assert after["init_sha256"] == before["best_weights_sha256"]
        assert after["initial_weights_sha256"] == before["best_weights_sha256"]
    assert facts[1]["kd_temperature"] == 2.0


def test_a_second_stage_is_another_size_from_the_best_of_the_first(
    tmp_path: Path, faces: Make, recipe: Any
) -> None:
    spec = faces(1).preprocess
    two = replace(recipe, first_stage=recipe, init="previous", size=32, epochs=1)
    folder = tmp_path / "job"
    for split, n, seed in (("train", 59, 0), ("val", 28, 9), ("calib", 21, 8)):
        for name, used in ((split, spec), (f"{split}_32", replace(spec, size=32))):
            (folder / name).mkdir(parents=True)
            held = faces(n, seed, used)
            np.save(folder / name / "images.npy", held.images)
            write_rows(folder / name / "rows.npz", held)
    about: dict[str, Any] = {}
    write_job(
        folder, steps=[Step("teacher[RN18]", two)], seed=1, preprocess=spec,
        manifest_sha256="0" * 64, about=about,
    )  # fmt: skip
    (run,) = run_job(folder, tmp_path / "runs", ALONE)
    assert run.name == "teacher_RN18"
    first, second = read(run / "stage_1", "training.json"), read(run, "training.json")
    assert second["init_sha256"] == first["best_weights_sha256"]
    sizes = [load_checkpoint(f / "best.pt").preprocess.size for f in (run / "stage_1", run)]
    assert sizes == [16, 32]


def test_what_is_finished_is_left_alone(job_of: Job, tmp_path: Path) -> None:
    job, out = job_of({}, {"init": "previous"}), tmp_path / "runs"
    first, second = run_job(job, out, ALONE)
    before = (first / "best.pt").stat().st_mtime_ns
    (second / "finished.json").unlink()
    run_job(job, out, ALONE)
    assert (first / "best.pt").stat().st_mtime_ns == before


def test_steps_may_be_run_one_by_one_in_the_order_in_which_they_rest_on_each_other(
    job_of: Job, tmp_path: Path
) -> None:
    job, out = job_of({}, {"init": "previous"}, {"epochs": 1}), tmp_path / "runs"
    with refused("unfinished-step") as caught:
        run_job(job, out, ALONE, only=["step_1"])
    assert "step_0" in str(caught.value.fix)
    (third,) = run_job(job, out, ALONE, only=["step_2"])
    assert [path.name for path in out.iterdir()] == [third.name] == ["step_2"]
    run_job(job, out, ALONE, only=["step_0"])
    (second,) = run_job(job, out, ALONE, only=["step_1"])
    (whole, *_) = run_job(job, tmp_path / "whole", ALONE)
    facts = read(second, "training.json")
    assert facts["init_sha256"] == read(whole, "training.json")["best_weights_sha256"]
    with refused("unknown-step", allowed="step_0, step_1, step_2"):
        run_job(job, out, ALONE, only=["step_0", "step_9"])


@pytest.mark.parametrize("name", ["train/images.npy", "val/rows.npz"])
@pytest.mark.threat("bytes differ from those that were judged")
def test_a_flipped_byte_is_refused_before_anything_trains(
    job_of: Job, tmp_path: Path, name: str
) -> None:
    job = job_of()
    data = bytearray((job / name).read_bytes())
    data[-9] ^= 1
    (job / name).write_bytes(data)
    with refused("damaged-packed-training") as caught:
        run_job(job, tmp_path / "runs", ALONE)
    assert name in caught.value.what
    (job / name).unlink()
    with refused("damaged-packed-training") as caught:
        read_job(job)
    assert name in caught.value.what


def test_images_in_several_files_train_as_in_one(job_of: Job, tmp_path: Path) -> None:
    job = job_of()
    (whole,) = run_job(job, tmp_path / "whole", ALONE)
    folder, held = job / "train", json.loads((job / "job.json").read_text())
    images = np.load(folder / images_file(0))
    for number, part in enumerate(np.array_split(images, 3)):
        np.save(folder / images_file(number), part)
        name = f"train/{images_file(number)}"
        held["files"][name] = sha256_file(job / name)
    (job / "job.json").write_text(json.dumps(held))
    (shards,) = run_job(job, tmp_path / "shards", ALONE)
    weights = "best_weights_sha256"
    assert read(shards, "training.json")[weights] == read(whole, "training.json")[weights]
    (folder / images_file(2)).unlink()
    with refused("damaged-packed-training"):
        read_job(job)
    del held["files"][f"train/{images_file(2)}"]
    (job / "job.json").write_text(json.dumps(held))
    with refused("damaged-packed-training", where=folder / "rows.npz"):
        read_job(job).faces("train")


@pytest.mark.parametrize(
    ("rows", "code"),
    [
        ({"y": np.zeros(250_000_000, np.uint8)}, "archive-too-large"),
        ({"y": np.zeros(3, np.uint8)}, "missing-array"),
        (
            {"y": np.zeros(3), "votes": np.zeros(3), "sample_id": np.zeros(3)},
            "damaged-packed-training",
        ),
    ],
)
def test_rows_that_unpack_to_far_more_or_are_others_are_refused(
    job_of: Job, tmp_path: Path, rows: dict[str, np.ndarray], code: str
) -> None:
    job = job_of()
    np.savez_compressed(job / "train" / "rows.npz", **rows)  # type: ignore[arg-type]
    held = json.loads((job / "job.json").read_text())
    held["files"]["train/rows.npz"] = sha256_file(job / "train" / "rows.npz")
    (job / "job.json").write_text(json.dumps(held))
    with refused(code, where=job / "train" / "rows.npz"):
        read_job(job).faces("train")


@pytest.mark.parametrize("where", ["file", "step"])
@pytest.mark.threat("a path leads out of its folder")
def test_a_job_that_leads_out_of_its_folder_is_refused(
    job_of: Job, tmp_path: Path, where: str
) -> None:
    job = job_of()
    (tmp_path / "mine").write_bytes(b"mine")
    held = json.loads((job / "job.json").read_text())
    if where == "file":
        held["files"]["../mine"] = sha256_file(tmp_path / "mine")
    else:
        held["steps"][0]["name"] = "../../mine"
    (job / "job.json").write_text(json.dumps(held))
    with refused("path-leaves-root" if where == "file" else "invalid-step-name"):
        run_job(job, tmp_path / "out" / "runs", ALONE)
    assert not (tmp_path / "out").exists()


def test_another_folder_is_refused(tmp_path: Path) -> None:
    with refused("not-a-packed-training"):
        read_job(tmp_path)


def test_a_step_that_distils_without_soft_labels_is_refused(job_of: Job, tmp_path: Path) -> None:
    with refused("missing-soft-labels"):
        run_job(job_of({"task": DIST()}), tmp_path / "runs", ALONE)


#: Dependencies of this project that are not there where a packed training runs.
BARE = """
import runpy, sys
for name in ("dagster", "polars", "cv2", "sklearn", "scipy", "onnxruntime",
             "matplotlib", "typer", "onnx", "onnxscript", "fer_assets"):
    sys.modules[name] = None
sys.argv = ["fer_ml.packed", *sys.argv[1:]]
runpy.run_module("fer_ml.packed", run_name="__main__", alter_sys=True)
"""


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def test_it_trains_where_only_torch_timm_numpy_and_pydantic_are(
    job_of: Job, soft_of: Soft, tmp_path: Path
) -> None:
    job = job_of({}, {"task": KD(), "init": "previous", "epochs": 1}, soft=soft_of(2))
    done = subprocess.run(
        [sys.executable, "-c", BARE, str(job), "--out", str(tmp_path / "there"), "--device", "cpu"],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [str(tmp_path / "there" / f"step_{k}") for k in range(2)]
    here = run_job(job, tmp_path / "here", ALONE)
    for run in here:
        there = tmp_path / "there" / run.name
        assert (there / "best.pt").read_bytes() == (run / "best.pt").read_bytes()


def test_the_command_says_what_is_wrong_and_exits_1(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "fer_ml.packed", str(tmp_path), "--out", str(tmp_path / "o")],
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "not a packed training" in done.stderr
    assert "Traceback" not in done.stderr


def test_finished_steps_are_those_of_this_job_and_unchanged(job_of: Job, tmp_path: Path) -> None:
    job, out = job_of(), tmp_path / "runs"
    (run,) = run_job(job, out, ALONE)
    assert run_job(job, out, ALONE) == [run]
    with refused("changed-results") as told:
        run_job(job_of({"epochs": 5}, name="other"), out, ALONE)
    assert told.value.where == str(run)
    path = run / "best.pt"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with refused("changed-results"):
        run_job(job, out, ALONE)
