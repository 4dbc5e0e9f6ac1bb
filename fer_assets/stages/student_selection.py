"""``student_selection``: the student to deploy, chosen by the dual gate, never on a test set."""

from dataclasses import asdict, dataclass

from fer_assets.stage import Given, Limits, Recipe, Stage, needs
from fer_ml.recipes.profile import CANDIDATES, Profile, Selection
from fer_ml.storage.artifact import Artifact
from fer_ml.storage.gates import Gate, Outcome, same
from fer_ml.storage.job import Job
from fer_ml.storage.store import RunFolder, Store

GATES = (
    Gate("chosen_on_val", "the choice used val metrics only", "never choose on test"),
    Gate(
        "selected_by_rule",
        "the selected student is the incumbent, or failed no check of the dual gate",
        "materialize student_selection again",
    ),
)


#: The contents of each file in the run folder; ``<...>`` stands for a name.
HOLDS = {
    "selection.json": (
        "`selected` and its `sha256`, `incumbent`, `rule`, `limits`, `split` and `n` of the "
        "offline gate, `session`, `why`, `outcome` (decided, or undecided where the session is too"
        " short), `lacking` (list) and `session_says` (sentence), `candidates` by student: figures"
        " on val and in the demo, `verdict`, `checks` (`rule`, `value`, `limit`, `passed`, "
        "`reason`)"
    ),
    "confusion.png": "confusion matrix of the selected student",
    "reliability.png": "its reliability diagram",
}


@dataclass(frozen=True)
class SelectionRecipe(Recipe):
    """The limits of the dual gate; see ``Selection`` of the profile."""

    macro_f1_loss: float
    weakest_f1_loss: float
    flips_gain: float
    least_seconds: float
    least_events: int

    @classmethod
    def of(cls, profile: Profile, partition: str | None) -> "SelectionRecipe":
        """Return the recipe from the profile."""
        return cls(**dict(profile.selection))


def build(run: RunFolder, job: Job[SelectionRecipe]) -> None:
    """Write the chosen student, and every figure, limit and verdict."""
    from fer_ml.evaluation.selection import select_student

    select_student(run, job, Selection(**asdict(job.recipe)))


def judge(artifact: Artifact, store: Store, limits: Limits) -> list[Outcome]:
    """Judge that the choice used val alone, and that the chosen student failed no check."""
    selection = artifact.read_json("selection.json")
    splits = sorted({selection["split"], *artifact.record.splits.values()})
    failed = [
        check["rule"]
        for check in selection["candidates"][selection["selected"]]["checks"]
        if check["passed"] is False
    ]
    return [
        same("chosen_on_val", splits, ["val"]),
        same("selected_by_rule", failed, [], f"failed checks of {selection['selected']}"),
    ]


def stages(given: Given) -> list[Stage]:
    """Return the stage of ``student_selection``, the same for every profile."""
    return [
        Stage(
            asset="student_selection",
            group="evaluation",
            kinds=("json",),
            describe="The student to deploy: the best on val among those that pass the dual gate "
            "on val and on the demo session. `selection.json` holds every figure, limit and "
            "verdict.",
            needs=needs("benchmark", "candidate_sessions", *CANDIDATES),
            recipe=SelectionRecipe.of,
            holds=HOLDS,
            build=build,
            gates=GATES,
            judge=judge,
            code_version="4",
        )
    ]
