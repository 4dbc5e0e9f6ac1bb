"""Each gate of trainings and distillation is red for its own fault, end to end, and alone.

The fault is planted in a copy of a real artifact, which becomes the current one with a record of
its own; the pipeline then judges it. Other gates have their like beside their stage's tests.
"""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import pytest

from fer_assets.lineage import Target
from fer_assets.pipeline import Pipeline
from fer_assets.running import materialize
from fer_assets.selection import read_selection
from fer_assets.stages import stages_of_all_profiles
from fer_ml.base.errors import FerError
from fer_ml.base.files import write_json
from fer_ml.training.checkpoint import load_checkpoint
from fer_ml.training.models import weights_hash

TESTS = Path(__file__).parents[1]
KD, LOGITS = Target("student_kd"), Target("teacher_logits", "RN18")
Plant = Callable[[Path], None]


@pytest.fixture(scope="module")
def tiny(project: Callable[[str], Pipeline]) -> Pipeline:
    pipeline = project("tiny")
    with dg.DagsterInstance.get() as instance:
        materialize(pipeline, instance, select=read_selection(pipeline, "+student_kd"))
    return pipeline


def sets(file: str, *path: Any, to: Any) -> Plant:
    """A fault: another value in a JSON file."""

    def plant(folder: Path) -> None:
        held = json.loads((folder / file).read_text(encoding="utf-8"))
        inside = held
        for key in path[:-1]:
            inside = inside[key]
        inside[path[-1]] = to(inside[path[-1]]) if callable(to) else to
        write_json(folder / file, held)

    return plant


def array(file: str, name: str, change: Callable[[np.ndarray], np.ndarray]) -> Plant:
    """A fault: other numbers in an archive of arrays."""

    def plant(folder: Path) -> None:
        with np.load(folder / file, allow_pickle=False) as held:
            arrays = {key: held[key] for key in held.files}
        np.savez(folder / file, **{**arrays, name: change(arrays[name])})

    return plant


def no_weight_moved(folder: Path) -> None:
    now = weights_hash(load_checkpoint(folder / "best.pt").model)
    sets("training.json", "initial_weights_sha256", to=now)(folder)


def endless_logit(folder: Path) -> None:
    held = np.load(folder / "logits.npy", allow_pickle=False)
    held[3, 0] = np.inf
    np.save(folder / "logits.npy", held)


def last_first(values: Any) -> Any:
    return values[::-1]


METRICS = "reliabilitymetrics.json"
PLANTED: dict[tuple[Target, str], Plant] = {
    (KD, "budget_as_planned"): sets("training.json", "epochs_run", to=0),
    (KD, "init_as_promised"): sets("training.json", "init", to="none"),
    (KD, "weights_changed"): no_weight_moved,
    (KD, "metrics_of_best"): sets(METRICS, "checkpoint_sha256", to="0" * 64),
    (KD, "temperature_in_bounds"): sets("calibration.json", "inside_bounds", to=False),
    (KD, "confidence_informs"): sets(METRICS, "temperature_scaled", "nll", to=99.0),
    (KD, "not_below_previous"): sets("training.json", "baseline", "macro_f1", to=2.0),
    (LOGITS, "answered_by_inputs"): sets("logits.json", "checkpoint_sha256", to="0" * 64),
    (LOGITS, "covers_manifests"): sets(
        "logits.json", "manifests", "hq_train_manifest", to="0" * 64
    ),
    (LOGITS, "class_order"): sets("logits.json", "classes", to=last_first),
    (LOGITS, "finite"): endless_logit,
    (Target("ensemble"), "weights_sum_to_one"): sets("ensemble.json", "weights", "RN18", to=0.5),
    (Target("ensemble"), "chosen_on_calib"): sets("ensemble.json", "chosen_on", "split", to="test"),
    (Target("ensemble"), "class_order"): sets("ensemble.json", "classes", to=last_first),
    (Target("ensemble"), "not_below_best_member"): sets(
        "ensemble.json", "chosen_on", "nll", to=99.0
    ),
    (Target("softlabels"), "aligned_hashes"): sets("hash_manifest.json", "ensemble_sha256", to="0"),
    (Target("softlabels"), "covers_train"): array("softlabels.npz", "sample_id", last_first),
    (Target("softlabels"), "labels_agree"): array("softlabels.npz", "y", lambda y: (y + 1) % 7),
    (Target("softlabels"), "soft_enough"): sets("sharpness.json", "kd_temperature", to=0.01),
}


def red(pipeline: Pipeline, target: Target) -> set[str]:
    return {outcome.rule for outcome in pipeline.judge(target) if outcome.passed is False}


def planted(pipeline: Pipeline, target: Target, plant: Plant) -> set[str]:
    """The gates that turn red when a fault is planted in a copy of an artifact."""
    weak = red(pipeline, target)  # So short a training does not pass every gate that only warns.
    return red_with(pipeline, target, plant) - weak


def red_with(pipeline: Pipeline, target: Target, plant: Plant) -> set[str]:
    """The gates that are red for a copy of an artifact in which a fault is planted."""
    before = pipeline.store.current(target.asset, target.partition)
    assert before is not None
    record, pointer = before.record, before.folder.parent / "current.json"
    held = pointer.read_bytes()
    with pipeline.store.begin(
        target.asset, target.partition, inputs=record.inputs, recipe=record.recipe
    ) as run:
        for name in record.files:
            shutil.copyfile(before.file(name), run.path(name))
        run.splits.update(record.splits)
        plant(run.folder)
    try:
        found = red(pipeline, target)
        if any(gate.blocking and gate.rule in found for gate in pipeline.gates(target.asset)):
            with pytest.raises(FerError, match="failed gate"):
                pipeline.store.require(target.asset, target.partition)
    finally:
        pointer.write_bytes(held)
    return found


@pytest.mark.parametrize(("target", "rule"), PLANTED, ids=str)
def test_its_own_fault_turns_a_gate_red_and_no_other(
    tiny: Pipeline, target: Target, rule: str
) -> None:
    assert planted(tiny, target, PLANTED[target, rule]) == {rule}


def test_a_student_below_the_floor_or_no_better_than_a_guesser_is_red(tiny: Pipeline) -> None:
    """The other profile of these tests asks nothing, so that seconds of training are enough."""
    target, rule = Target("student_ce"), "above_floor"

    def found(floor: float, macro_f1: float) -> set[str]:
        profile = tiny.profile.model_copy(update={"floor_macro_f1": floor})
        plant = sets(METRICS, "raw", "macro_f1", to=macro_f1)
        return red_with(replace(tiny, profile=profile), target, plant)

    good = found(0.5, 0.99)
    assert rule not in good
    assert found(0.5, 0.49) - good == {rule}
    assert found(1e-9, 0.1) - good == {rule}
    assert rule not in found(0.0, 0.1)


def test_of_a_run_that_lacks_a_file_no_gate_passes(tiny: Pipeline) -> None:
    found = planted(tiny, KD, lambda folder: (folder / "history.json").unlink())
    assert {gate.rule for gate in tiny.gates(KD.asset) if gate.blocking} <= found
    assert "run_complete" in found


def test_every_gate_is_named_by_a_test() -> None:
    """A gate that no test names never failed in one."""
    told = "\n".join(path.read_text(encoding="utf-8") for path in TESTS.rglob("test_*.py"))
    rules = {gate.rule for stage in stages_of_all_profiles().values() for gate in stage.gates}
    assert {rule for rule in rules if f'"{rule}"' not in told and f'"{rule}:' not in told} == set()
