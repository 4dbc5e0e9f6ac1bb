"""Which student is deployed: by a stated rule, on val, never on a test set."""

from fer_ml.errors import FerError
from fer_ml.evaluation.guard import comparable
from fer_ml.gates import Outcome, same
from fer_ml.job import Job
from fer_ml.profiles import STUDENTS, Profile
from fer_ml.store import Artifact, RunFolder, Store

RULE = "highest macro-F1 on the val split of hq_train_manifest; a tie goes to the earlier student"
SET = "hq_train_val"


def build_selection(run: RunFolder, job: Job) -> None:
    """Write ``selection.json``: the chosen student, the rule, and every candidate's figure."""
    entries = job.input("benchmark").read_json("benchmark.json")["entries"]
    names = [f"student_{stage}" for stage in STUDENTS]
    for name in names[1:]:
        reasons = comparable(entries[names[0]][SET], entries[name][SET])
        if reasons:
            raise FerError(f"{names[0]} and {name} cannot be compared: {'; '.join(reasons)}")
    scores = {name: entries[name][SET]["raw"]["macro_f1"] for name in names}
    chosen = max(names, key=lambda name: scores[name])
    run.write_json(
        "selection.json",
        {
            "schema_version": 1,
            "selected": chosen,
            "sha256": entries[chosen][SET]["model_sha256"],
            "rule": RULE,
            "split": entries[chosen][SET]["split"],
            "n": entries[chosen][SET]["n"],
            "candidates": scores,
        },
    )
    run.splits.update(student="val")
    run.summary.update(selected=chosen, val_macro_f1=scores[chosen])


def gate_selection(artifact: Artifact, store: Store, profile: Profile) -> list[Outcome]:
    """Judge which split the choice saw."""
    held = artifact.read_json("selection.json")
    seen = sorted({held["split"], *artifact.record.splits.values()})
    return [same("chosen_on_val", seen, ["val"])]
