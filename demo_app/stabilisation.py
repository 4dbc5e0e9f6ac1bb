"""Turn flickering probabilities into a readable label. Pure functions of time in seconds.

Four steps: an exponential moving average, hysteresis, a vote over time, and abstention. None of
them counts frames: each sample stands for the time since the previous sample. The same signal
therefore gives the same labels at any frame rate.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from fer_ml.base.labels import CLASSES

Status = Literal["label", "unsure", "too_small", "unstable", "no_face"]
#: Why a face has no label, whatever its probabilities.
Doubt = Literal["unsure", "too_small"]


class StabiliserSettings(BaseModel):
    """How calmly a label follows the probabilities.

    ``ema_tau_s`` is the time constant of the moving average (0 switches it off). Another class
    takes the lead once its average exceeds the leader's by ``hysteresis_delta``. A leader becomes
    the label after leading for ``vote_share`` of the last ``vote_s`` seconds (0 s switches the vote
    off). A label that falls below that share without a successor is 'unstable'. A face whose best
    probability in this image is under ``unsure_below`` is 'unsure'; averages are not used, because
    the limit was calibrated on single images. A face that is absent for more than ``gap_s`` is
    forgotten.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    ema_tau_s: float = Field(default=0.25, ge=0, le=60)
    hysteresis_delta: float = Field(default=0.08, ge=0, le=1)
    vote_s: float = Field(default=0.3, ge=0, le=60)
    vote_share: float = Field(default=0.55, gt=0.5, le=1)
    unsure_below: float = Field(ge=0, le=1)
    gap_s: float = Field(default=0.5, ge=0, le=60)


@dataclass(frozen=True)
class StabiliserState:
    """The state of one face after a step.

    ``status`` is what to show. ``label`` is the class that won the vote (also while unsure), None
    before the first face. ``smoothed`` are the averages in the order of ``CLASSES``.
    ``face_time_s`` is when the face was last seen, ``time_s`` when the last step was. ``leads`` are
    the recent leading classes and when each took the lead (s); the last one still leads.
    """

    status: Status = "no_face"
    label: str | None = None
    smoothed: tuple[float, ...] = ()
    time_s: float | None = None
    face_time_s: float | None = None
    leads: tuple[tuple[float, str], ...] = ()

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
    doubt: Doubt | None = None,
) -> StabiliserState:
    """Return the state after ``probs [7]`` (calibrated, in the order of ``CLASSES``) at ``time_s``.

    ``doubt`` is the status of a face in which the probabilities must not be trusted.
    ``None`` means that the face is absent: the status is 'no_face' at once, and after ``gap_s`` the
    state is forgotten. Raises ``ValueError`` for a time before the last one or for invalid
    probabilities.
    """
    if state.time_s is not None and time_s < state.time_s:
        raise ValueError(f"time runs backwards: {time_s} s after {state.time_s} s")
    if state.face_time_s is not None and time_s - state.face_time_s > settings.gap_s:
        state = START
    if probs is None:
        return replace(state, status="no_face", time_s=time_s)
    seen = _checked(probs)
    if state.label is None or state.face_time_s is None:
        label, smoothed, lead_share = CLASSES[_argmax(seen)], seen, 1.0
        # The first leader counts as if it had always led: there is nothing to vote against it.
        leads: tuple[tuple[float, str], ...] = ((-math.inf, label),)
    else:
        smoothed = ema(state.smoothed, seen, time_s - state.face_time_s, settings.ema_tau_s)
        leads = lead(state, smoothed, time_s, settings.hysteresis_delta)
        label, lead_share = vote(leads, state.label, time_s, settings.vote_s, settings.vote_share)
        leads = _recent(leads, time_s - settings.vote_s)
    status = doubt or _status(max(seen), lead_share, settings)
    return StabiliserState(status, label, smoothed, time_s, time_s, leads)


def ema(old: Sequence[float], new: Sequence[float], dt_s: float, tau_s: float) -> tuple[float, ...]:
    """Return the average after ``dt_s`` s of ``new``, whose weight is 1 - exp(-dt_s / tau_s)."""
    alpha = 1.0 if tau_s == 0 else 1.0 - math.exp(-dt_s / tau_s)
    return tuple(a + alpha * (b - a) for a, b in zip(old, new, strict=True))


def lead(
    state: StabiliserState, smoothed: tuple[float, ...], time_s: float, delta: float
) -> tuple[tuple[float, str], ...]:
    """Apply hysteresis to new averages; a class takes the lead once it is ``delta`` ahead.

    The lead starts where the distance, interpolated linearly between the last sample and this one,
    passed ``delta``. Starting at the sample would lengthen every wait at low frame rates.
    """
    leader, challenger = state.leads[-1][1], CLASSES[_argmax(smoothed)]
    now = _distance(smoothed, challenger, leader)
    if challenger == leader or now < delta:
        return state.leads
    assert state.face_time_s is not None
    before = _distance(state.smoothed, challenger, leader)
    share = 0.0 if before >= delta else (delta - before) / (now - before)
    since = state.face_time_s + share * (time_s - state.face_time_s)
    return (*state.leads, (since, challenger))


def vote(
    leads: Sequence[tuple[float, str]], label: str, time_s: float, vote_s: float, share: float
) -> tuple[str, float]:
    """Return the label after a vote over the last ``vote_s`` seconds, and its share of the lead.

    A class with at least ``share`` (over one half, so at most one) wins; otherwise ``label`` stays.
    Without a window the current leader wins.
    """
    if vote_s == 0:
        return leads[-1][1], 1.0
    led: dict[str, float] = {}
    until = time_s
    for since, name in reversed(leads):
        begin = max(since, time_s - vote_s)
        led[name] = led.get(name, 0.0) + max(0.0, until - begin) / vote_s
        until = min(until, begin)
    # The tolerance is far below a frame: sums of frame times must not miss the share by rounding.
    for name, lead_share in led.items():
        if lead_share >= share - 1e-9:
            return name, lead_share
    return label, led.get(label, 0.0)


def step_response_s(settings: StabiliserSettings, confidence: float = 0.9) -> float | None:
    """Return the delay of smoothing in s, from a clean change of expression to its label.

    One class at ``confidence``, with the rest shared evenly, changes to another; sampled at 100 Hz.
    None if the new label is not shown within 5 s.
    """
    rest = (1 - confidence) / (len(CLASSES) - 1)
    old, new = ([confidence if i == at else rest for i in range(len(CLASSES))] for at in (3, 4))
    state = START
    for index in range(-1, 500):
        state = step(state, old if index < 0 else new, index / 100, settings)
        if state.status == "label" and state.label == CLASSES[4]:
            return index / 100
    return None


def _status(best: float, lead_share: float, settings: StabiliserSettings) -> Status:
    if best < settings.unsure_below:
        return "unsure"
    return "label" if lead_share >= settings.vote_share - 1e-9 else "unstable"


def _recent(leads: tuple[tuple[float, str], ...], since_s: float) -> tuple[tuple[float, str], ...]:
    """Return the leads that overlap the window: all except those that ended before ``since_s``."""
    first = max((i for i, (begin, _) in enumerate(leads) if begin <= since_s), default=0)
    return leads[first:]


def _distance(smoothed: Sequence[float], challenger: str, leader: str) -> float:
    return smoothed[CLASSES.index(challenger)] - smoothed[CLASSES.index(leader)]


def _argmax(values: Sequence[float]) -> int:
    return max(range(len(values)), key=values.__getitem__)


def _checked(probs: Sequence[float]) -> tuple[float, ...]:
    values = tuple(float(value) for value in probs)
    if len(values) != len(CLASSES) or not all(0 <= value <= 1 for value in values):
        raise ValueError(f"not {len(CLASSES)} probabilities in 0..1: {values}")
    if abs(sum(values) - 1) > 1e-3:
        raise ValueError(f"probabilities add up to {sum(values):.4f}, not to 1")
    return values
