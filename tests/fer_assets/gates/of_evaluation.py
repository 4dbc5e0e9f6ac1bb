"""A fault for each gate of what is measured, selected, deployed and reported."""

import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import polars as pl

from fer_assets.lineage import Target
from fer_assets.stages import report
from fer_assets.stages._serving import LEAST, SERVING_FILE
from fer_assets.stages.candidate_sessions import CANDIDATES_FILE
from fer_assets.stages.small_bundles import LATENCY_LIMITS
from fer_ml.base.labels import CLASSES
from fer_ml.bundles.bundle import CARD_FILE, MODEL_FILE, PARITY_FILE, read_card
from fer_ml.recipes.profile import CANDIDATES
from fer_ml.report.document import TEMPLATE
from tests.fer_assets.gates.planting import (
    OTHER_HASH,
    OTHER_ORDER,
    Copy,
    Fault,
    Faults,
    Plant,
    card,
    every,
    one,
    sets,
    splits,
    table,
    text,
)

CELL = ("benchmark.json", "entries", "student_kd", "test_all_sources")
SCALING = "calibration/student_kd.json"
REPLAYED = "manual_macro_f1_present_stabilised"


def other_answers(rows: pl.DataFrame) -> pl.DataFrame:
    """Each face gets the next class."""
    after = dict(zip(CLASSES, (*CLASSES[1:], CLASSES[0]), strict=True))
    return rows.with_columns(pl.col("y_pred").replace(after))


def students(value: float, *names: str) -> Plant:
    """The macro-F1 of students on the mixed test set."""
    path = ("test_all_sources", "raw", "macro_f1")
    return every(*(sets("benchmark.json", "entries", name, *path, to=value) for name in names))


def of_networks(folder: str) -> Faults:
    """The gates of an exported network; ``folder`` is that of its bundle."""
    return {
        "torch_equals_onnx": one(
            sets(f"{folder}/{PARITY_FILE}", "largest_logit_difference", to=0.1),
            sets(f"{folder}/{PARITY_FILE}", "checkpoint_sha256", to=OTHER_HASH),
        ),
        "card_matches": one(card(folder, model_sha256=OTHER_HASH)),
        "class_order": one(card(folder, classes=OTHER_ORDER)),
    }


def of_another_checkpoint(folder: str) -> Plant:
    """A bundle that says that it was exported from other weights."""
    parity = sets(f"{folder}/{PARITY_FILE}", "checkpoint_sha256", to=OTHER_HASH)
    return every(card(folder, checkpoint_sha256=OTHER_HASH), parity)


def kpis(**changed: Any) -> Plant:
    """Other key figures of the demo."""
    return sets("demo_kpis.json", to=lambda held: {**held, **changed})


def before(**changed: Any) -> Plant:
    """Other key figures of the session as it was recorded."""
    return sets("demo_kpis.json", "before", to=lambda held: {**held, **changed})


def other_student(copy: Copy) -> None:
    """The bundle of a student that was not selected."""
    candidates = copy.input("candidate_bundles").folder
    held = [read_card(candidates / name).checkpoint_sha256 for name in CANDIDATES]
    other = CANDIDATES[held.index(read_card(copy.folder).checkpoint_sha256) - 1]
    shutil.copytree(candidates / other, copy.folder, dirs_exist_ok=True)


#: What is shown now is better than what the session showed, and as calm.
REPLAY = every(
    kpis(**{REPLAYED: 0.9, "flips_per_minute_stabilised": 10.0}),
    before(**{REPLAYED: 0.5, "flips_per_minute_stabilised": 10.0}),
)


def served(accuracy: float, ece: float) -> Plant:
    """Enough faces found, and what the demo's way to them gives."""
    direct, shown = {"accuracy": 0.8, "ece": 0.03}, {"accuracy": accuracy, "ece": ece}
    return sets(
        SERVING_FILE, "detectors", "haar", to={"found": LEAST, "direct": direct, "shown": shown}
    )


def offered(copy: Copy) -> None:
    """The full network, offered as fp16."""
    bundle = copy.input("student_bundle")
    for name in (MODEL_FILE, CARD_FILE):
        shutil.copyfile(bundle.file(name), copy.run.path(f"fp16/{name}"))


def precision(name: str, lost: float, ratio: float) -> Plant:
    """How much a precision loses, and how long it takes."""
    return every(
        sets("small_bundles.json", "precisions", name, "macro_f1_lost", to=lost),
        sets("timing.json", "latency", name, "ratio", to=ratio),
    )


#: Times are the machine's: here every precision is as good and as fast.
SMALL = every(offered, *(precision(name, 0.0, 0.5) for name in LATENCY_LIMITS))


def other_training(change: Callable[[Copy], None]) -> Plant:
    """One of the compared trainings was another one."""
    return lambda copy: copy.other_input("student_experiment", change)


def other_manifest(copy: Copy) -> None:
    copy.inputs[0] = copy.inputs[0].model_copy(update={"sha256": OTHER_HASH})


def failed_check(held: dict[str, Any]) -> dict[str, Any]:
    checks = held["candidates"][held["selected"]]["checks"]
    checks.append({"rule": "val_macro_f1", "passed": False})
    return held


def rendered(change: Callable[[str], str]) -> Plant:
    """The report of another template."""

    def plant(copy: Copy) -> None:
        before = (copy.folder / TEMPLATE).read_text(encoding="utf-8")
        job, _ = copy.pipeline.job(Target("report"))
        with TemporaryDirectory() as folder:
            path = Path(folder) / TEMPLATE
            path.write_text(change(before), encoding="utf-8")
            report.build(copy.run, replace(job, paths={**job.paths, "report": path}))
        assert change(before) != before

    return plant


def other_picture(copy: Copy) -> None:
    first, second, *_ = sorted((copy.folder / "figures").iterdir())
    shutil.copyfile(first, second)


REFERENCES = rendered(lambda held: f"{held}\nAs shown [1].\n\n## References\n\n[1] Somebody.\n")
FLOOR = {"sound": students(0.99, *CANDIDATES)}

PLANTED: dict[Target, Faults] = {
    Target("benchmark"): {
        "every_row_scored": one(
            sets(*CELL, "n", to=lambda rows: rows - 1),
            table("predictions/student_kd__test_all_sources.csv", lambda rows: rows[1:]),
        ),
        "calibrated_on_calib": one(
            sets(SCALING, "fitted_on", to="val"),
            sets(SCALING, "checkpoint_sha256", to=OTHER_HASH),
        ),
        "no_choice_on_test": one(sets(*CELL, "chosen_on", "checkpoint", to="test")),
        "students_above_floor": (
            Fault(students(0.49, "student_kd"), **FLOOR, limits={"floor_macro_f1": 0.5}),
            # No better than a guesser.
            Fault(students(0.1, "student_kd"), **FLOOR, limits={"floor_macro_f1": 1e-9}),
        ),
    },
    Target("robustness"): {
        "every_set_scored": one(
            table("predictions/student_kd.csv", lambda rows: rows[:-1]),
            sets("robustness.json", "n", to=lambda rows: rows - 1),
        ),
        "clean_as_benchmark": one(
            table("predictions/student_kd.csv", other_answers),
            sets("robustness.json", "entries", "student_kd", "checkpoint_sha256", to=OTHER_HASH),
        ),
    },
    Target("adopted_bundle", "friend"): of_networks("."),
    Target("candidate_bundles"): {
        **of_networks("student_kd"),
        "of_their_students": one(of_another_checkpoint("student_kd")),
    },
    Target("candidate_sessions"): {
        "like_for_like": (
            *one(
                sets(CANDIDATES_FILE, "candidates", "student_kd", "faces", to=lambda n: n + 1),
                sets(CANDIDATES_FILE, "candidates", to=lambda held: dict(list(held.items())[:2])),
            ),
            Fault(
                sets(CANDIDATES_FILE, "candidates", to={}),
                also=frozenset({"has_truth"}),
                because="where no student was tried, no face of a known expression was seen",
            ),
        ),
        "has_truth": one(
            every(
                *(
                    sets(CANDIDATES_FILE, "candidates", student, "scored", to=0)
                    for student in CANDIDATES
                )
            )
        ),
    },
    Target("error_analysis"): {
        "every_mistake_counted": one(
            table("confusions.csv", lambda rows: rows[:-1]),
            sets("error_analysis.json", "models", "ensemble", "mistakes", to=lambda n: n + 1),
        ),
    },
    Target("student_selection"): {
        "chosen_on_val": one(sets("selection.json", "split", to="test"), splits(student="test")),
        "selected_by_rule": one(sets("selection.json", to=failed_check)),
    },
    Target("comparison/it"): {
        "arms_equal_as_declared": one(
            other_training(lambda copy: copy.recipe["training"].update(lr=0.5)),
            other_training(other_manifest),
        ),
        "every_row_scored": one(
            table("predictions/two.csv", lambda rows: rows[1:]),
            sets("comparison.json", "n", to=lambda rows: rows - 1),
        ),
        "intervals_finite": one(
            text("comparison.json", lambda held: re.sub(r'"mean": \S+', '"mean": NaN,', held))
        ),
    },
    Target("student_bundle"): {
        **of_networks("."),
        "is_selected": one(of_another_checkpoint("."), other_student),
        "demo_path_accuracy": (Fault(served(0.7, 0.03), sound=served(0.8, 0.03)),),
        "demo_path_ece": (Fault(served(0.8, 0.1), sound=served(0.8, 0.03)),),
    },
    Target("demo_kpis"): {
        rule: tuple(Fault(plant, sound=REPLAY) for plant in plants)
        for rule, plants in {
            "frames_scored": (kpis(faces=0),),
            "steadier_than_raw": (kpis(flips_raw=3, flips_stabilised=4),),
            "frame_p95": (kpis(frame_ms_p95=1e9), kpis(frame_ms_p95=None)),
            "replay_improves": (kpis(**{REPLAYED: 0.5}),),
            "replay_is_as_calm": (kpis(flips_per_minute_stabilised=11.1),),
        }.items()
    },
    Target("small_bundles"): {
        rule: (Fault(plant, sound=SMALL),)
        for rule, plant in {
            "cards_match": card("fp16", model_sha256=OTHER_HASH),
            "fp16_keeps_accuracy": precision("fp16", 0.006, 0.5),
            "fp16_is_as_fast": precision("fp16", 0.0, 1.11),
            "int8_keeps_accuracy": precision("int8", 0.006, 0.5),
            "int8_is_as_fast": precision("int8", 0.0, 1.01),
        }.items()
    },
    Target("report_claims"): {
        "all_grounded": one(sets("claims.json", "claims", 0, "status", to="drifted")),
    },
    Target("report"): {
        "numbers_covered": one(rendered(lambda held: f"{held}\nIt holds on 25 frames.\n")),
        "figures_from_artifacts": (
            *one(other_picture),
            Fault(
                rendered(lambda held: f"{held}\n![made up](figures/x.png)\n"),
                also=frozenset({"numbers_covered"}),
                because="a figure by hand in the template is no reference either",
            ),
        ),
        "citations_listed": (
            Fault(rendered(lambda held: held.replace("shown [1]", "shown [1, 2]")), REFERENCES),
            Fault(rendered(lambda held: f"{held}\n[1] Another.\n"), REFERENCES),
        ),
        "references_cited": (Fault(rendered(lambda held: f"{held}\n[2] Nobody.\n"), REFERENCES),),
        "checklist_stated": one(rendered(lambda held: held[: held.index("## Reproducibility")])),
    },
}
