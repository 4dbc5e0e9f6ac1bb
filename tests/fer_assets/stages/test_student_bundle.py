"""The deployed bundle is the one that was selected."""

import pytest

from fer_assets.stage import Limits
from fer_assets.stages._serving import SERVING_FILE
from fer_assets.stages.student_bundle import GATES, judge
from fer_ml.recipes.profile import CANDIDATES
from fer_ml.storage.store import Store
from tests.fer_assets.stages.bundles import made, put_bundle, right_cards


@pytest.mark.parametrize("selected", CANDIDATES[:2])
def test_only_the_selected_student_is_deployed(selected: str, store: Store) -> None:
    cards = right_cards(store)
    chosen = store.current(selected)
    assert chosen is not None
    value = {"selected": selected, "sha256": chosen.sha256}
    selection = made(
        store, "student_selection", lambda run: run.write_json("selection.json", value)
    )
    bundle = made(
        store,
        "student_bundle",
        lambda run: (
            put_bundle(run, "", cards[CANDIDATES[0]]),
            run.write_json(SERVING_FILE, {"n": 9, "detectors": {}}),
        ),
        selection,
    )
    outcomes = judge(bundle, store, Limits())
    assert {o.rule for o in outcomes} == {gate.rule for gate in GATES}
    failed = [o.rule for o in outcomes if o.passed is False]
    assert failed == ([] if selected == CANDIDATES[0] else ["is_selected"])
