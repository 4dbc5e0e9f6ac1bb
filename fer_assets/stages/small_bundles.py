"""``small_bundles``: the student in fp16 and int8, offered where accuracy and speed suffice."""

from fer_assets.stage import Given, Limits, Recipe, Stage, needs
from fer_ml.storage.artifact import Artifact
from fer_ml.storage.gates import Gate, Outcome, at_most, not_applicable, same
from fer_ml.storage.job import Job
from fer_ml.storage.store import RunFolder, Store

#: How much macro-F1 on val a precision may lose.
ACCURACY_LIMIT = 0.005
#: How long one face may take by precision, in times of fp32. fp16 does the same arithmetic: its
#: limit leaves room for the noise of two equal times.
LATENCY_LIMITS = {"fp16": 1.1, "int8": 1.0}

GATES = (
    Gate(
        "cards_match",
        "the card of each offered precision states the sha256 of its model.onnx",
        "export again",
    ),
    *(
        gate
        for precision, least in (("fp16", "at most 1.1 times as long"), ("int8", "no longer"))
        for gate in (
            Gate(
                f"{precision}_keeps_accuracy",
                f"macro-F1 on val falls by at most 0.005 in {precision}",
                "serve the full bundle: this precision costs too much, and is not offered",
                blocking=False,
            ),
            Gate(
                f"{precision}_is_as_fast",
                f"one face takes {least} in {precision}, measured on this machine in one run",
                "serve the full bundle here: this precision is not offered",
                blocking=False,
            ),
        )
    ),
)


#: The contents of each file in the run folder; ``<...>`` stands for a name.
HOLDS = {
    "<precision>/model.onnx": "Only of an offered precision: in the format of `student_bundle`",
    "<precision>/card.json": "Only of an offered precision: a [card](#cardjson)",
    "small_bundles.json": (
        "`split`, `n`, `precisions` (`macro_f1`, `macro_f1_lost`, `same_label`, `bytes`, `offered`)"
    ),
    "timing.json": "`rounds`, `latency` by precision: `ms_p50` of one face, `ratio` to fp32",
}


def build(run: RunFolder, job: Job[Recipe]) -> None:
    """Try every precision; ``<precision>/`` holds a bundle if both limits are kept."""
    from fer_ml.bundles.small import try_precisions

    try_precisions(run, job, ACCURACY_LIMIT, LATENCY_LIMITS)


def judge(artifact: Artifact, store: Store, limits: Limits) -> list[Outcome]:
    """Judge each precision by its accuracy and speed, and each offered bundle by its bytes."""
    from fer_ml.bundles.bundle import MODEL_FILE, read_card

    figures = artifact.read_json("small_bundles.json")["precisions"]
    timing = artifact.read_json("timing.json")["latency"]
    offered = [name for name in LATENCY_LIMITS if f"{name}/{MODEL_FILE}" in artifact.record.files]
    cards = [read_card(artifact.folder / name).model_sha256 for name in offered]
    file_hashes = [artifact.record.files[f"{name}/{MODEL_FILE}"].sha256 for name in offered]
    outcomes = [
        same("cards_match", cards, file_hashes, f"offered: {', '.join(offered)}")
        if offered
        else not_applicable("cards_match", "no precision is offered")
    ]
    for name, limit in LATENCY_LIMITS.items():
        lost, ratio = figures[name]["macro_f1_lost"], timing[name]["ratio"]
        outcomes.append(at_most(f"{name}_keeps_accuracy", lost, ACCURACY_LIMIT))
        outcomes.append(at_most(f"{name}_is_as_fast", ratio, limit, "times the fp32 latency"))
    return outcomes


def stages(given: Given) -> list[Stage]:
    """Return the stage of ``small_bundles``, the same for every profile."""
    return [
        Stage(
            asset="small_bundles",
            group="deployment",
            kinds=("onnx",),
            describe="The student in fp16 and int8 for phones and small boards, each offered only "
            "where it keeps its accuracy and is as fast on this machine: `small_bundles.json`, "
            "`timing.json`.",
            needs=needs("student_bundle", "hq_train_manifest"),
            holds=HOLDS,
            build=build,
            gates=GATES,
            judge=judge,
            code_version="2",
        )
    ]
