"""A fault for each gate of trainings, of what is distilled from them, and of models taken in."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import polars as pl
import torch

from fer_assets.lineage import Target
from fer_ml.adoption import ADOPTION_FILE
from fer_ml.adoption.build import build_foreign
from fer_ml.adoption.folder import recognise
from fer_ml.base.labels import CLASSES
from fer_ml.base.reading import sha256_file
from fer_ml.storage.job import Job
from fer_ml.storage.store import RunFolder
from fer_ml.training.checkpoint import load_checkpoint
from fer_ml.training.models import weights_hash
from tests.fer_assets.gates.planting import (
    OTHER_HASH,
    Copy,
    Fault,
    Faults,
    Plant,
    array,
    checkpoint,
    every,
    gone,
    last_first,
    one,
    sets,
    splits,
    table,
)

CE, KD = Target("student_ce"), Target("student_kd")
LOGITS = Target("teacher_logits", "RN18")
FRIEND, LABELS = Target("adopted", "friend"), Target("adopted", "labels")
METRICS = "reliabilitymetrics.json"


def resealed(change: Plant) -> Plant:
    """A change of ``best.pt`` after which the metrics carry its new hash."""

    def plant(copy: Copy) -> None:
        change(copy)
        digest = sha256_file(copy.folder / "best.pt")
        for file in (METRICS, "calibration.json"):
            sets(file, "checkpoint_sha256", to=digest)(copy)

    return plant


def endless_weight(copy: Copy) -> None:
    model = dict(load_checkpoint(copy.folder / "best.pt").model)
    name = next(name for name, value in model.items() if value.is_floating_point())
    model[name] = torch.full_like(model[name], torch.nan)
    checkpoint(model=model)(copy)


def no_weight_moved(copy: Copy) -> None:
    now = weights_hash(load_checkpoint(copy.folder / "best.pt").model)
    sets("training.json", "initial_weights_sha256", to=now)(copy)


def inference(**changed: float) -> Plant:
    """What the kept weights did in inference, as history.json has it."""

    def plant(copy: Copy) -> None:
        best = json.loads((copy.folder / "training.json").read_text())["best_epoch"]

        def of_best(entry: dict[str, Any]) -> dict[str, Any]:
            held = changed if entry["epoch"] == best else {}
            return {**entry, "inference": {**entry["inference"], **held}}

        sets("history.json", to=lambda history: list(map(of_best, history)))(copy)

    return plant


def macro_f1(value: float) -> Plant:
    """Another macro-F1 on val."""
    return sets(METRICS, "raw", "macro_f1", to=value)


def baseline(value: float) -> Plant:
    """Another macro-F1 of the student before."""
    return sets("training.json", "baseline", "macro_f1", to=value)


#: What so short a training does not reach.
SOUND = every(
    sets(METRICS, "raw", "per_class_f1", to=dict.fromkeys(CLASSES, 0.9)),
    sets(METRICS, "temperature_scaled", "nll", to=0.0),
    inference(nll_stored=1.0, nll_batch=1.0, feature_range=1.0),
)


def of_runs(sound: Plant, further: frozenset[str] = frozenset()) -> Faults:
    """The gates of every training; ``further`` are those that a stage has besides."""
    floor = {"sound": every(sound, macro_f1(0.99))}
    found: dict[str, tuple[Fault, ...]] = {
        rule: tuple(Fault(plant, sound=sound) for plant in plants)
        for rule, plants in {
            "class_order": (resealed(checkpoint(classes=CLASSES[::-1])),),
            "budget_as_planned": (
                sets("training.json", "epochs_run", to=0),
                sets("training.json", "steps", to=0),
            ),
            "init_as_promised": (
                sets("training.json", "init", to="package"),
                sets("training.json", "init_sha256", to=lambda held: "" if held else OTHER_HASH),
            ),
            "weights_changed": (no_weight_moved,),
            "metrics_of_best": (
                sets(METRICS, "checkpoint_sha256", to=OTHER_HASH),
                sets("calibration.json", "checkpoint_sha256", to=OTHER_HASH),
                sets(METRICS, "n", to=lambda rows: rows - 1),
            ),
            "finite_weights": (resealed(endless_weight),),
            "temperature_in_bounds": (sets("calibration.json", "inside_bounds", to=False),),
            "classes_above_chance": (sets(METRICS, "raw", "per_class_f1", "Fear", to=0.01),),
            "inference_fits": (inference(nll_stored=99.0), inference(feature_range=1e9)),
            "confidence_informs": (sets(METRICS, "temperature_scaled", "nll", to=99.0),),
        }.items()
    }
    found["above_floor"] = (
        Fault(macro_f1(0.49), **floor, limits={"floor_macro_f1": 0.5}),
        # No better than a guesser.
        Fault(macro_f1(0.1), **floor, limits={"floor_macro_f1": 1e-9}),
    )
    others, unknown = frozenset(found) | further, "of a folder that lacks files nothing is known"
    found["run_complete"] = tuple(
        Fault(gone(file), sound=sound, also=others, because=unknown)
        for file in ("history.json", "alignmentreport.json")
    )
    return found


ARRAYS = ("logits.npy", "views.npy", "in_sample.npy")


def numbers(file: str, change: Callable[[np.ndarray], np.ndarray]) -> Plant:
    """Other numbers in an array."""

    def plant(copy: Copy) -> None:
        np.save(copy.folder / file, change(np.load(copy.folder / file, allow_pickle=False)))

    return plant


def endless(held: np.ndarray) -> np.ndarray:
    held.reshape(-1)[3] = np.inf
    return held


def turned(file: str) -> Plant:
    """Many faces, all answered rightly by columns that stand one place off."""

    def change(held: pl.DataFrame) -> pl.DataFrame:
        right = [pl.col("y_true") == name for name in (*CLASSES[1:], CLASSES[0])]
        return pl.concat([held] * 8).with_columns(
            pl.when(hit).then(pl.lit("9.0")).otherwise(pl.lit("0.0")).alias(f"logit_{name}")
            for name, hit in zip(CLASSES, right, strict=True)
        )

    return table(file, change)


def endless_answer(held: pl.DataFrame) -> pl.DataFrame:
    first = pl.int_range(pl.len()) == 0
    return held.with_columns(logit_Sad=pl.when(first).then(pl.lit("inf")).otherwise("logit_Sad"))


def other_weights(copy: Copy) -> None:
    """A checkpoint of another epoch."""
    checkpoint(epoch=load_checkpoint(copy.folder / "best.pt").epoch + 1)(copy)


def in_both(change: Plant) -> Plant:
    """A change of ``best.pt`` in the adopted run too, so that it is that one's."""

    def plant(copy: Copy) -> None:
        change(copy)
        best = copy.folder / "best.pt"
        copy.other_input("adopted", lambda run: shutil.copyfile(best, run.folder / "best.pt"))

    return plant


def adopted_again(change: Callable[[Path], None]) -> Plant:
    """The files as they came, with a change, taken in and examined."""

    def plant(copy: Copy) -> None:
        with TemporaryDirectory() as folder:
            came = Path(folder) / "came"
            came.mkdir()
            for name in json.loads((copy.folder / ADOPTION_FILE).read_text())["files"]:
                shutil.move(copy.folder / name, came / name)
            change(came)
            job = Job("adopted", None, copy.store, None, {}, {})
            build_foreign(RunFolder(copy.folder), job, foreign=recognise(came))

    return plant


def edited(name: str, before: str, after: str) -> Callable[[Path], None]:
    """A file of a folder with another text."""

    def change(folder: Path) -> None:
        text = (folder / name).read_text()
        assert before in text
        (folder / name).write_text(text.replace(before, after, 1))

    return change


PLANTED: dict[Target, Faults] = {
    CE: of_runs(SOUND),
    KD: {
        **of_runs(every(SOUND, baseline(0.0)), frozenset({"not_below_previous"})),
        "not_below_previous": tuple(
            Fault(plant, sound=every(SOUND, baseline(0.0)))
            for plant in (
                baseline(2.0),
                sets("training.json", "baseline", "manifest_sha256", to=OTHER_HASH),
            )
        ),
    },
    LOGITS: {
        "answered_by_inputs": one(
            sets("logits.json", "checkpoint_sha256", to=OTHER_HASH),
            sets("logits.json", "folds", to=last_first),
        ),
        "covers_manifests": one(
            sets("logits.json", "manifests", "hq_train_manifest", to=OTHER_HASH),
            array("rows.npz", "sample_id", lambda ids: np.append(ids[:-1], ids[:1])),
            *(numbers(file, lambda held: held[:-1]) for file in ARRAYS),
        ),
        "class_order": one(sets("logits.json", "classes", to=last_first)),
        "finite": one(*(numbers(file, endless) for file in ARRAYS)),
    },
    Target("ensemble"): {
        "weights_sum_to_one": one(sets("ensemble.json", "weights", "RN18", to=0.5)),
        "chosen_on_calib": one(
            sets("ensemble.json", "chosen_on", "split", to="test"), splits(temperature="val")
        ),
        "class_order": one(sets("ensemble.json", "classes", to=last_first)),
        "not_below_best_member": one(sets("ensemble.json", "chosen_on", "nll", to=99.0)),
    },
    Target("softlabels"): {
        "aligned_hashes": one(
            sets("hash_manifest.json", "ensemble_sha256", to=OTHER_HASH),
            sets("hash_manifest.json", "manifest_sha256", to=OTHER_HASH),
        ),
        "covers_train": one(
            array("softlabels.npz", "sample_id", last_first),
            array("softlabels.npz", "logits", lambda logits: logits[:-1]),
        ),
        "class_order": one(sets("classorder.json", to=last_first)),
        "labels_agree": one(array("softlabels.npz", "y", lambda y: (y + 1) % 7)),
        "soft_enough": one(
            sets("sharpness.json", "kd_temperature", to=0.01),
            array("softlabels.npz", "logits", lambda logits: 1000 * logits),
        ),
    },
    Target("external_model", "friend"): {
        "bytes_as_named": one(other_weights),
        "class_order": one(turned("predictions_calib.csv")),
        "finite": one(table("predictions_calib.csv", endless_answer)),
    },
    LABELS: {
        "class_order": (
            Fault(
                adopted_again(edited("classorder.json", "Angry", "Anger")),
                also=frozenset({"consistent"}),
                because="an order that contradicts the rest is a contradiction too",
            ),
        ),
        "complete": one(adopted_again(lambda folder: (folder / "softlabels_index.jsonl").unlink())),
        "consistent": one(adopted_again(edited("softlabels_index.jsonl", '"y": 1', '"y": 2'))),
    },
    FRIEND: {
        "verified": (
            Fault(
                sets(ADOPTION_FILE, "unverified", to=["the loss"]),
                sound=sets(ADOPTION_FILE, "unverified", to=[]),
            ),
        ),
    },
    Target("adopted_model", "friend"): {
        "class_order": one(
            turned("predictions_val.csv"), resealed(in_both(checkpoint(classes=CLASSES[::-1])))
        ),
        "metrics_of_best": one(
            sets(METRICS, "checkpoint_sha256", to=OTHER_HASH),
            sets("calibration.json", "checkpoint_sha256", to=OTHER_HASH),
            resealed(other_weights),
        ),
        "finite_weights": one(resealed(in_both(endless_weight))),
        "temperature_in_bounds": one(sets("calibration.json", "inside_bounds", to=False)),
    },
}
