"""From probabilities that flicker to a label that a person can read. Pure functions over seconds.

Three stages: an exponential moving average, hysteresis with a hold time, and abstention. None of
them counts frames, so the same signal gives the same labels at any frame rate: each sample stands
for the time since the sample before it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from fer_ml.labels import CLASSES

Status = Literal["label", "unsure", "no_face"]


class StabiliserSettings(BaseModel):
    """How calmly a label follows the probabilities. Frozen for a whole run.

    ``ema_tau_s`` is the time constant of the average (0 switches it off); another class becomes
    the label once its average has been ``hysteresis_delta`` above the label's for ``hold_s``; a
    label whose own average is under ``unsure_below`` is shown as 'unsure'; a face that is away for
    more than ``gap_s`` is forgotten.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    ema_tau_s: float = Field(default=0.25, ge=0, le=60)
    hysteresis_delta: float = Field(default=0.08, ge=0, le=1)
    unsure_below: float = Field(ge=0, le=1)
    hold_s: float = Field(default=0.15, ge=0, le=60)
    gap_s: float = Field(default=0.5, ge=0, le=60)


@dataclass(frozen=True)
class StabiliserState:
    """What is known of one face after a step.

    ``status`` is what to show; ``label`` is the class kept by the hysteresis (also while unsure),
    None before the first face; ``smoothed`` are the averages in the order of ``CLASSES``;
    ``face_time_s`` is when the face was last seen and ``time_s`` when the last step was;
    ``challenger`` is the class that may take over and ``ahead_since_s`` since when it is ahead.
    """

    status: Status = "no_face"
    label: str | None = None
    smoothed: tuple[float, ...] = ()
    time_s: float | None = None
    face_time_s: float | None = None
    challenger: str | None = None
    ahead_since_s: float | None = None

    @property
    def confidence(self) -> float | None:
        """The average of the label's own class, 0..1; None before the first face."""
        return None if self.label is None else self.smoothed[CLASSES.index(self.label)]


#: The state of a track before its first step.
START = StabiliserState()


def step(
    state: StabiliserState,
    probs: Sequence[float] | None,
    time_s: float,
    settings: StabiliserSettings,
) -> StabiliserState:
    """The state after seeing ``probs [7]`` (calibrated, in the order of ``CLASSES``) at ``time_s``.

    ``None`` means that the face is not there: the status is 'no_face' at once, and after ``gap_s``
    nothing is remembered. ``ValueError`` for a time that runs backwards or for probabilities that
    are none.
    """
    if state.time_s is not None and time_s < state.time_s:
        raise ValueError(f"time runs backwards: {time_s} s after {state.time_s} s")
    if state.face_time_s is not None and time_s - state.face_time_s > settings.gap_s:
        state = START
    if probs is None:
        return replace(state, status="no_face", time_s=time_s)
    seen = _checked(probs)
    if state.label is None or state.face_time_s is None:
        state = replace(START, label=CLASSES[_argmax(seen)], smoothed=seen)
    else:
        smoothed = ema(state.smoothed, seen, time_s - state.face_time_s, settings.ema_tau_s)
        state = _switch(state, smoothed, time_s, settings)
    confidence = state.confidence
    sure = confidence is not None and confidence >= settings.unsure_below
    return replace(state, status="label" if sure else "unsure", time_s=time_s, face_time_s=time_s)


def ema(old: Sequence[float], new: Sequence[float], dt_s: float, tau_s: float) -> tuple[float, ...]:
    """Moving average after ``dt_s`` seconds of ``new``, whose weight is 1 - exp(-dt_s / tau_s)."""
    alpha = 1.0 if tau_s == 0 else 1.0 - math.exp(-dt_s / tau_s)
    return tuple(a + alpha * (b - a) for a, b in zip(old, new, strict=True))


def _switch(
    state: StabiliserState,
    smoothed: tuple[float, ...],
    time_s: float,
    settings: StabiliserSettings,
) -> StabiliserState:
    """Hysteresis: let the leading class take over once it was far enough ahead for long enough."""
    challenger = CLASSES[_argmax(smoothed)]
    lead = _lead(smoothed, challenger, state.label)
    if challenger == state.label or lead < settings.hysteresis_delta:
        return replace(state, smoothed=smoothed, challenger=None, ahead_since_s=None)
    since = state.ahead_since_s
    if since is None or challenger != state.challenger:
        since = _crossing(state, challenger, lead, time_s, settings.hysteresis_delta)
    # The tolerance is far below a frame: sums of frame times must not miss the hold by rounding.
    if time_s - since < settings.hold_s - 1e-9:
        return replace(state, smoothed=smoothed, challenger=challenger, ahead_since_s=since)
    return replace(state, label=challenger, smoothed=smoothed, challenger=None, ahead_since_s=None)


def _crossing(
    state: StabiliserState, challenger: str, lead: float, time_s: float, delta: float
) -> float:
    """When the lead passed ``delta``, on a straight line between the last sample and this one.

    Counting from the sample itself would make the hold longer at low frame rates.
    """
    assert state.face_time_s is not None
    before = _lead(state.smoothed, challenger, state.label)
    if before >= delta:
        return state.face_time_s
    share = (delta - before) / (lead - before)
    return state.face_time_s + share * (time_s - state.face_time_s)


def _lead(smoothed: Sequence[float], challenger: str, label: str | None) -> float:
    assert label is not None
    return smoothed[CLASSES.index(challenger)] - smoothed[CLASSES.index(label)]


def _argmax(values: Sequence[float]) -> int:
    return max(range(len(values)), key=values.__getitem__)


def _checked(probs: Sequence[float]) -> tuple[float, ...]:
    values = tuple(float(value) for value in probs)
    if len(values) != len(CLASSES) or not all(0 <= value <= 1 for value in values):
        raise ValueError(f"not {len(CLASSES)} probabilities in 0..1: {values}")
    if abs(sum(values) - 1) > 1e-3:
        raise ValueError(f"probabilities add up to {sum(values):.4f}, not to 1")
    return values
