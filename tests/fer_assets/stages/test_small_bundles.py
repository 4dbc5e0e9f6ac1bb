"""Each precision is tried, and offered where it keeps both limits."""

import pytest

from fer_assets.stage import Limits, Recipe
from fer_assets.stages.small_bundles import ACCURACY_LIMIT, GATES, LATENCY_LIMITS, build, judge
from fer_ml.bundles.bundle import Bundle, load_bundle
from fer_ml.storage.job import Job
from fer_ml.storage.store import RunFolder, Store
from tests.fer_assets.stages.bundles import made
from tests.fer_ml.evaluation.conftest import Lineage


def test_what_is_offered_follows_from_both_figures(lineage: Lineage, bundle: Bundle) -> None:
    def copy(run: RunFolder) -> None:
        for file in bundle.folder.iterdir():
            run.path(file.name).write_bytes(file.read_bytes())

    lineage.put("student_bundle", copy)
    inputs = {label: lineage.held[label] for label in ("student_bundle", "hq_train_manifest")}
    job = Job("small_bundles", None, lineage.store, Recipe(), inputs, {})
    artifact = lineage.made(build, job)
    outcomes = judge(artifact, lineage.store, Limits())
    assert [o.rule for o in outcomes] == [gate.rule for gate in GATES]
    verdicts = {o.rule: o.passed for o in outcomes}
    assert verdicts["cards_match"]
    held = artifact.read_json("small_bundles.json")["precisions"]
    for name in LATENCY_LIMITS:
        offered = verdicts[f"{name}_keeps_accuracy"] and verdicts[f"{name}_is_as_fast"]
        assert held[name]["offered"] is offered
        assert (f"{name}/model.onnx" in artifact.record.files) is offered
        if offered:
            card = load_bundle(artifact.folder / name).card
            assert card.precision == name
            assert card.metrics["against_fp32"] == {"split": "val", "n": 28, **held[name]}


@pytest.mark.parametrize(
    ("lost", "ratios", "failed"),
    [
        (ACCURACY_LIMIT, LATENCY_LIMITS, []),
        (ACCURACY_LIMIT + 1e-6, LATENCY_LIMITS, ["fp16_keeps_accuracy", "int8_keeps_accuracy"]),
        (0, {"fp16": 1.11, "int8": 1.01}, ["fp16_is_as_fast", "int8_is_as_fast"]),
    ],
)
def test_the_limits(lost: float, ratios: dict[str, float], failed: list[str], store: Store) -> None:
    def fill(run: RunFolder) -> None:
        figures = {name: {"macro_f1_lost": lost} for name in ratios}
        timing = {name: {"ratio": ratio} for name, ratio in ratios.items()}
        run.write_json("small_bundles.json", {"precisions": figures})
        run.write_json("timing.json", {"latency": timing})

    outcomes = judge(made(store, "small_bundles", fill), store, Limits())
    assert [o.rule for o in outcomes if o.passed is False] == failed
