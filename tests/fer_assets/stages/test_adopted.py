"""What the examination of an adopted result found, as gates."""

from pathlib import Path

from fer_assets.stage import Limits
from fer_assets.stages.adopted import GATES, judge
from fer_ml.storage.store import Store
from tests.fer_ml.adoption import first_pipeline as old
from tests.fer_ml.adoption.conftest import Adopt


def test_the_gates(tmp_path: Path, adopt: Adopt, store: Store) -> None:
    outcomes = {o.rule: o for o in judge(adopt(old.teacher_run(tmp_path / "r")), store, Limits())}
    assert list(outcomes) == [gate.rule for gate in GATES]
    assert (outcomes["class_order"].passed, outcomes["complete"].passed) == (None, True)
    assert (outcomes["consistent"].value, outcomes["consistent"].passed) == (5, False)
    assert not outcomes["verified"].passed, "what comes from elsewhere is never wholly verified"
    folder = old.softlabels(tmp_path / "s")
    right = {o.rule: o for o in judge(adopt(folder), store, Limits())}
    assert (right["class_order"].passed, right["class_order"].value) == (True, 0)
    old.write(folder / "classorder.json", ["Neutral"])
    wrong = {o.rule: o for o in judge(adopt(folder), store, Limits())}
    assert not wrong["class_order"].passed
    assert [gate.rule for gate in GATES if gate.blocking] == ["class_order"]
