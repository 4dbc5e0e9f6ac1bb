"""``error_analysis``: the mistakes of the models, for people to look at."""

from fer_assets.stage import Given, Limits, Recipe, Stage, needs
from fer_ml.base.reading import as_text
from fer_ml.storage.artifact import Artifact
from fer_ml.storage.gates import Gate, Outcome, same
from fer_ml.storage.job import Job
from fer_ml.storage.store import RunFolder, Store

GATES = (
    Gate(
        "every_mistake_counted",
        "the confusions of each model add up to the benchmark's wrong rows",
        "make it again",
    ),
)


#: The contents of each file in the run folder; ``<...>`` stands for a name.
HOLDS = {
    "error_analysis.json": (
        "`set`, `caption`, `manifest_sha256`, `n`, `selection_split`, `teacher`, `models` "
        "(`accuracy`, `mistakes`, `most_confused`, `highest_rate`, `agreement`, `worst_source`), "
        "`label_noise`"
    ),
    "error_analysis.html": "one page with faces, without scripts",
    "cases.csv": (
        "the faces that are shown: `model`, `kind`, the row, `predicted`, `confidence`, `second`, "
        "`margin`"
    ),
    "confusions.csv": "`model`, `label`, `predicted`, `count`, `rate` (of the label's rows)",
    "review.csv": "labels that the ensemble contradicts, in the format of `prediction_review`",
    "review.html": "the same with faces",
    "faces/<model>_<kind>.png": "contact sheets of confident mistakes and ambiguous faces",
}


def build(run: RunFolder, job: Job[Recipe]) -> None:
    """Write tables, contact sheets and one page about every student and the ensemble."""
    from fer_ml.evaluation.error_analysis import analyse_errors

    analyse_errors(run, job)


def judge(artifact: Artifact, store: Store, limits: Limits) -> list[Outcome]:
    """Judge the analysis: its confusions add up to the wrong rows of the benchmark."""
    import polars as pl

    analysis = artifact.read_json("error_analysis.json")
    item = next(item for item in artifact.record.inputs if item.asset == "benchmark")
    benchmark = store.find("benchmark", None, item.sha256)
    confusions = pl.read_csv(as_text(artifact.file("confusions.csv")), glob=False)
    counted, wanted = {}, {}
    for name, model in analysis["models"].items():
        counted[name] = int(confusions.filter(pl.col("model") == name)["count"].sum())
        cell = benchmark.read_json("benchmark.json")["entries"][name] if benchmark else {}
        entry = cell.get(analysis["set"])
        wanted[name] = round((1 - entry["raw"]["accuracy"]) * entry["n"]) if entry else -1
        if model["mistakes"] != counted[name]:
            counted[name] = -1
    return [same("every_mistake_counted", counted, wanted)]


def stages(given: Given) -> list[Stage]:
    """Return the stage of ``error_analysis``, the same for every profile."""
    return [
        Stage(
            asset="error_analysis",
            group="evaluation",
            code_version="2",
            kinds=("html", "csv"),
            describe="Mistakes of the students and the ensemble on the mixed test set: "
            "`error_analysis.html`, contact sheets, confusions, agreement with the ensemble, the "
            "worst source, and labels in doubt (`review.csv`).",
            needs=needs("benchmark", "test_all_sources_manifest"),
            holds=HOLDS,
            build=build,
            gates=GATES,
            judge=judge,
            looks=True,
        )
    ]
