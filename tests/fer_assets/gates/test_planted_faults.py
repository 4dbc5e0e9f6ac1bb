"""Each gate of each stage is red for its own fault, end to end, and alone.

The fault is planted in a copy of a real artifact, which becomes the current one with a record of
its own; the pipeline then judges it, and a consumer is refused it where the gate blocks.
"""

from dataclasses import replace

import pytest

from fer_assets.lineage import Target
from fer_assets.stages import stages_of_all_profiles
from tests.fer_assets.gates import of_evaluation, of_manifests, of_trainings
from tests.fer_assets.gates.planting import Bed, Fault, Faults

PLANTED: dict[Target, Faults] = {
    **of_manifests.PLANTED,
    **of_trainings.PLANTED,
    **of_evaluation.PLANTED,
}
CASES = {
    f"{target.label}-{rule}-{number}": (target, rule, fault)
    for target, faults in PLANTED.items()
    for rule, forms in faults.items()
    for number, fault in enumerate(forms)
}


@pytest.mark.parametrize(("target", "rule", "fault"), CASES.values(), ids=CASES)
def test_its_own_fault_turns_a_gate_red_and_no_other(
    bed: Bed, target: Target, rule: str, fault: Fault
) -> None:
    assert bed.turned(target, fault) == {rule, *fault.also}


def test_every_gate_of_every_stage_has_a_fault(bed: Bed) -> None:
    """Stages that one function judges are of one kind: of each there is one artifact here."""
    planted: dict[object, set[str]] = {}
    for target, faults in PLANTED.items():
        stage = bed.pipeline.stage(target.asset)
        assert set(faults) <= {gate.rule for gate in stage.gates}, "gates that it does not have"
        planted.setdefault(stage.judge, set()).update(faults)
    for stage in stages_of_all_profiles().values():
        rules = {gate.rule for gate in stage.gates}
        assert rules == planted.get(stage.judge, set()) & rules, stage.asset


@pytest.mark.parametrize("passed", [True, None], ids=["passed", "not applicable"])
@pytest.mark.parametrize(
    "case",
    [
        "classification_manifest-bad_labels-0",
        "student_kd-metrics_of_best-0",
        "benchmark-no_choice_on_test-0",
        "demo_kpis-replay_improves-0",
        "report_claims-all_grounded-0",
    ],
)
def test_a_gate_that_does_not_judge_is_noticed(
    bed: Bed, case: str, passed: bool | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, rule, fault = CASES[case]
    stage = bed.pipeline.stage(target.asset)

    def judge(*given: object) -> list[object]:
        return [
            replace(outcome, passed=passed) if outcome.rule == rule else outcome
            for outcome in stage.judge(*given)  # type: ignore[arg-type]
        ]

    monkeypatch.setitem(bed.pipeline.stages, target.asset, replace(stage, judge=judge))
    assert bed.turned(target, fault) == set()
