"""The demo's way to a face beside training's, on the same faces."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from demo_app.detection import Detection
from demo_app.embedding import both_ways, embed
from demo_app.shipped import SHIPPED
from fer_assets.stages import _serving
from fer_assets.stages._serving import LEAST, SERVING_FILE, SERVING_GATES, figures, judge_serving
from fer_ml.bundles.bundle import Bundle, load_bundle
from fer_ml.metrics.classification import expected_calibration_error
from fer_ml.recipes.preprocess import Frame
from fer_ml.storage.store import Store
from tests.fer_assets.stages.bundles import made


class KnowsWhere:
    """Finds every face, in a box of the proportions that a detector may give."""

    name = "drawn"

    def __init__(self, faces: list[np.ndarray], narrow: float = 0.0) -> None:
        self._boxes = [embed(face, (0, row))[1] for row, face in enumerate(faces)]
        self._narrow, self._next = narrow, iter(self._boxes)

    def detect(self, image: np.ndarray) -> list[Detection]:
        left, top, right, bottom = next(self._next)
        less = round(self._narrow * (right - left) / 2)
        return [Detection((left + less, top, right - less, bottom), 1.0)]


def faces(count: int) -> list[np.ndarray]:
    rng = np.random.default_rng(2)
    return [np.repeat(rng.integers(0, 256, (48, 48, 1), np.uint8), 3, axis=2) for _ in range(count)]


def served(frame: Frame) -> Bundle:
    held = load_bundle(SHIPPED)
    return replace(held, card=held.card.model_copy(update={"frames": {"drawn": frame}}))


def apart(frame: Frame, narrow: float) -> float:
    """How far the answers of both ways are apart, by their total variation."""
    shown = faces(12)
    both = both_ways(shown, served(frame), KnowsWhere(shown, narrow), 0)
    assert both.rows.tolist() == list(range(12))
    return float(np.abs(both.direct - both.shown).sum(axis=1).mean() / 2)


def test_the_right_square_gives_the_same_answers_and_a_wrong_one_others() -> None:
    right = apart(Frame(), 0.0)
    assert right < 0.1, "what enlarging and shrinking leave"
    assert apart(Frame(), 0.25) < 0.15, "a narrow box is not squashed"
    assert apart(Frame(1.3), 0.25) > 2 * right


def test_figures_are_of_the_faces_that_were_found(bundle: Bundle) -> None:
    shown, y = faces(6), np.zeros(6, int)
    held = figures(shown, y, served(Frame()), KnowsWhere(shown))
    assert (held["found"], held["pictures"]) == (6, 1), "too few for a verdict"
    both = both_ways(shown, served(Frame()), KnowsWhere(shown), 0)
    assert held["direct"]["accuracy"] == (both.direct.argmax(axis=1) == 0).mean()
    assert held["shown"]["accuracy"] == (both.shown.argmax(axis=1) == 0).mean()

    class Blind(KnowsWhere):
        def detect(self, image: np.ndarray) -> list[Detection]:
            return []

    assert figures(shown, y, served(Frame()), Blind(shown))["found"] == 0


def test_figures_are_averages_over_several_pictures_of_each_face(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Every picture holds the face at another place and size."""
    shown, y, served_as = faces(6), np.arange(6), served(Frame())
    monkeypatch.setattr(_serving, "LEAST", 6)

    class KnowsEach(KnowsWhere):
        def __init__(self) -> None:
            self._narrow = 0.0
            seeds = range(_serving.SEED, _serving.SEED + _serving.PICTURES)
            self._next = iter(embed(f, (s, row))[1] for s in seeds for row, f in enumerate(shown))

    held, again = figures(shown, y, served_as, KnowsEach()), KnowsEach()
    each = [both_ways(shown, served_as, again, seed).shown for seed in range(_serving.PICTURES)]
    assert held["pictures"] == _serving.PICTURES
    hits = np.mean([(probs.argmax(axis=1) == y).mean() for probs in each])
    assert held["shown"]["accuracy"] == pytest.approx(hits)
    eces = [expected_calibration_error(y, probs) for probs in each]
    assert len(set(eces)) > 1
    assert held["shown"]["ece"] == pytest.approx(np.mean(eces))


def one(found: int, accuracy: float, ece: float) -> dict[str, Any]:
    """A detector's figures, against an accuracy of 0.8 and an ECE of 0.03."""
    return {
        "found": found,
        "direct": {"accuracy": 0.8, "ece": 0.03},
        "shown": {"accuracy": accuracy, "ece": ece},
    }


@pytest.mark.parametrize(
    ("detectors", "failed", "undecided"),
    [
        ({"haar": one(LEAST, 0.79, 0.04)}, [], False),
        # What the detector's square makes better is no fault.
        ({"haar": one(LEAST, 0.83, 0.01)}, [], False),
        ({"haar": one(LEAST, 0.789, 0.03)}, ["demo_path_accuracy"], False),
        ({"haar": one(LEAST, 0.8, 0.041)}, ["demo_path_ece"], False),
        ({"haar": one(LEAST, 0.8, 0.03), "yunet": one(LEAST, 0.66, 0.119)}, "both", False),
        ({"haar": one(LEAST - 1, 0.5, 0.3)}, [], True),
        # A detector that finds few faces says nothing, and hides nothing of the other.
        ({"haar": one(3, 0.8, 0.03), "yunet": one(LEAST, 0.66, 0.119)}, "both", False),
        ({}, [], True),
    ],
)
def test_each_detector_that_found_enough_is_judged(
    detectors: dict[str, Any], failed: Any, undecided: bool, tmp_path
) -> None:
    store = Store(tmp_path, "test")
    value = {"n": 2000, "detectors": detectors}
    artifact = made(store, "student_bundle", lambda run: run.write_json(SERVING_FILE, value))
    outcomes = judge_serving(artifact)
    rules = [gate.rule for gate in SERVING_GATES]
    assert [outcome.rule for outcome in outcomes] == rules
    assert all(gate.blocking for gate in SERVING_GATES)
    wanted = rules if failed == "both" else failed
    assert [outcome.rule for outcome in outcomes if outcome.passed is False] == wanted
    assert all((outcome.passed is None) == undecided for outcome in outcomes)
