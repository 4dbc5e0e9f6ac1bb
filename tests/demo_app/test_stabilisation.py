import math
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from demo_app.stabilisation import START, StabiliserSettings, StabiliserState, ema, step
from fer_ml.labels import CLASS_INDEX, CLASSES

SETTINGS = StabiliserSettings(
    ema_tau_s=0.2, hysteresis_delta=0.1, unsure_below=0.4, hold_s=0.15, gap_s=0.5
)
PLAIN = StabiliserSettings(ema_tau_s=0, hysteresis_delta=0.1, unsure_below=0, hold_s=0)


def probs(**given: float) -> list[float]:
    """The given classes, and the rest shared evenly by the others."""
    rest = (1 - sum(given.values())) / (len(CLASSES) - len(given))
    return [given.get(name, rest) for name in CLASSES]


def changes(
    signal: Callable[[float], list[float] | None], fps: int, settings: StabiliserSettings
) -> list[tuple[float, str]]:
    """(time, label) whenever the kept label changes, over six seconds."""
    state, found = START, []
    for index in range(6 * fps):
        time_s = index / fps
        after = step(state, signal(time_s), time_s, settings)
        if after.label is not None and after.label != state.label:
            found.append((time_s, after.label))
        state = after
    return found


def test_ema_weight_is_that_of_the_time_constant() -> None:
    assert ema([1.0, 0.0], [0.0, 1.0], 0.2, 0.2) == pytest.approx((math.exp(-1), 1 - math.exp(-1)))


@given(parts=st.integers(1, 20), dt=st.floats(0.01, 2), tau=st.floats(0.01, 2))
def test_ema_of_a_constant_does_not_depend_on_how_often_it_is_sampled(
    parts: int, dt: float, tau: float
) -> None:
    often: tuple[float, ...] = (1.0, 0.0)
    for _ in range(parts):
        often = ema(often, (0.2, 0.8), dt / parts, tau)
    assert often == pytest.approx(ema((1.0, 0.0), (0.2, 0.8), dt, tau), abs=1e-9)


def test_ema_can_be_off() -> None:
    assert ema([1.0], [0.25], 0.0, 0) == (0.25,)


@pytest.mark.parametrize("hold_s", [0, 0.05, 0.15, 0.22, 0.4])
@pytest.mark.parametrize("tau_s", [0, 0.1, 0.25, 0.6])
def test_the_frame_rate_does_not_change_the_labels(hold_s: float, tau_s: float) -> None:
    settings = SETTINGS.model_copy(update={"hold_s": hold_s, "ema_tau_s": tau_s})

    def signal(time_s: float) -> list[float]:
        if time_s < 2:
            return probs(Happy=0.8)
        return probs(Sad=0.7) if time_s < 4 else probs(Surprise=0.9)

    slow, fast = changes(signal, 10, settings), changes(signal, 30, settings)
    assert [label for _, label in slow] == ["Happy", "Sad", "Surprise"]
    assert [label for _, label in fast] == [label for _, label in slow]
    for (slow_s, _), (fast_s, _) in zip(slow, fast, strict=True):
        assert abs(slow_s - fast_s) <= 0.1 + 1e-9


def test_hysteresis_wants_its_distance() -> None:
    state = step(START, probs(Happy=0.4, Sad=0.3), 0.0, PLAIN)
    state = step(state, probs(Happy=0.34, Sad=0.43), 0.1, PLAIN)
    assert state.label == "Happy"
    state = step(state, probs(Happy=0.3, Sad=0.45), 0.2, PLAIN)
    assert state.label == "Sad"


def test_a_flicker_shorter_than_the_hold_is_not_shown() -> None:
    settings = SETTINGS.model_copy(update={"ema_tau_s": 0})

    def flicker(time_s: float) -> list[float]:
        return probs(Sad=0.9) if 1 <= time_s < 1.1 else probs(Happy=0.9)

    assert [label for _, label in changes(flicker, 30, settings)] == ["Happy"]


def test_defaults_react_within_400_ms() -> None:
    settings = StabiliserSettings(unsure_below=0.4)

    def signal(time_s: float) -> list[float]:
        return probs(Happy=0.9) if time_s < 2 else probs(Sad=0.9)

    (_, (time_s, _)) = changes(signal, 30, settings)
    assert 2 < time_s <= 2.4


def test_smoothing_cuts_flips_of_a_noisy_signal() -> None:
    rng = np.random.default_rng(7)
    noisy = [rng.dirichlet(4 * np.array(probs(Happy=0.35, Sad=0.3))) for _ in range(300)]
    raw = [CLASSES[int(np.argmax(p))] for p in noisy]
    state, shown = START, []
    for index, values in enumerate(noisy):
        state = step(state, values, index / 30, SETTINGS)
        shown.append(state.label)

    def flips(labels: list) -> int:
        return sum(a != b for a, b in pairwise(labels))

    assert flips(shown) * 6 <= flips(raw)


def test_unsure_is_a_status_and_keeps_the_label() -> None:
    state = step(START, probs(Happy=0.39), 0.0, SETTINGS)
    assert (state.status, state.label) == ("unsure", "Happy")
    assert state.confidence == pytest.approx(0.39)
    state = step(state, probs(Happy=0.9), 1.0, SETTINGS)
    assert (state.status, state.label) == ("label", "Happy")


def test_no_face_is_a_status_of_its_own() -> None:
    assert step(START, None, 0.0, SETTINGS).status == "no_face"
    assert step(START, None, 0.0, SETTINGS).label is None


def test_a_short_gap_is_bridged_and_a_long_one_forgotten() -> None:
    state = step(START, probs(Happy=0.9), 0.0, SETTINGS)
    away = step(state, None, 0.1, SETTINGS)
    assert (away.status, away.label) == ("no_face", "Happy")
    back = step(away, probs(Sad=0.9), 0.15, SETTINGS)
    assert back.label == "Happy"
    late = step(away, probs(Sad=0.9), 0.6, SETTINGS)
    assert late == StabiliserState(
        "label", "Sad", tuple(probs(Sad=0.9)), time_s=0.6, face_time_s=0.6
    )
    assert step(away, None, 0.6, SETTINGS).label is None


def test_a_tie_goes_to_the_first_class_and_steps_are_pure() -> None:
    uniform = [1 / 7] * 7
    before = step(START, uniform, 0.0, SETTINGS)
    assert before.label == CLASSES[0]
    assert step(before, probs(Sad=0.9), 1.0, SETTINGS) == step(
        before, probs(Sad=0.9), 1.0, SETTINGS
    )
    assert before.label == CLASSES[0]


@pytest.mark.parametrize(
    "bad", [[1.0], [math.nan] * 7, [0.5] * 7, [1.5, -0.5, 0, 0, 0, 0, 0], [0.0] * 7]
)
def test_what_is_no_distribution_is_refused(bad: list[float]) -> None:
    with pytest.raises(ValueError, match="probabilities"):
        step(START, bad, 0.0, SETTINGS)


def test_time_cannot_run_backwards() -> None:
    state = step(START, probs(Happy=0.9), 1.0, SETTINGS)
    with pytest.raises(ValueError, match="backwards"):
        step(state, probs(Happy=0.9), 0.9, SETTINGS)


def test_settings_refuse_unknown_and_impossible_values() -> None:
    with pytest.raises(ValidationError, match="ema_tau"):
        StabiliserSettings(unsure_below=0.4, ema_tau_s=-1)
    with pytest.raises(ValidationError, match="vote_window"):
        StabiliserSettings.model_validate({"unsure_below": 0.4, "vote_window": 15})
    with pytest.raises(ValidationError, match="hold_s"):
        StabiliserSettings(unsure_below=0.4, hold_s=math.nan)


def test_confidence_is_that_of_the_kept_label() -> None:
    state = step(START, probs(Happy=0.9), 0.0, SETTINGS)
    state = step(state, probs(Sad=0.9), 0.1, SETTINGS)
    assert state.label == "Happy"
    assert state.confidence == state.smoothed[CLASS_INDEX["Happy"]]
