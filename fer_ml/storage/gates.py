"""Gates: rules that an artifact must pass before anything may be computed from it.

A gate is declared beside its asset's stage; an evaluator judges all gates of one artifact
at once and returns an ``Outcome`` for each. The outcome is written as a receipt beside the
artifact, and ``Store.require`` refuses bytes for which a blocking gate failed or said nothing.

A gate whose question does not arise (a replay without a recorded session) is not applicable:
neither green nor red, and counted with neither. One that lacks what it needs to answer has failed.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from fer_ml.base.errors import FerError


@dataclass(frozen=True)
class Gate:
    """One rule: its name, what it asks, and what to do when it fails.

    ``blocks_with`` names a yes-or-no field of the stage's limits: it makes a gate block which else
    warns. ``measured_in`` is the asset that measured what is judged, where that is a speed: it
    depends on the machine and its load, so one that was not reached is measured again.
    """

    rule: str
    asks: str
    fix: str
    blocking: bool = True
    blocks_with: str = ""
    measured_in: str = ""

    def __post_init__(self) -> None:
        # Its receipt is a file of that name, on every file system.
        if not re.fullmatch(r"[a-z0-9_]+", self.rule):
            raise FerError(
                f"{self.rule!r} is not a valid name of a gate",
                code="invalid-gate-name",
                allowed="a to z, 0 to 9 and _",
            )


Word = Literal["passed", "failed", "not applicable"]


def word_of(passed: bool | None) -> Word:
    """A verdict in words; ``None`` is that of a gate with nothing to judge."""
    if passed is None:
        return "not applicable"
    return "passed" if passed else "failed"


@dataclass(frozen=True)
class Outcome:
    """What a rule found: value against limit, with a few examples.

    ``passed`` is ``None`` where the gate is not applicable; ``detail`` then says why.
    """

    rule: str
    passed: bool | None
    value: float | str
    limit: float | str
    detail: str = ""
    examples: tuple[str, ...] = field(default=())


def at_most(
    rule: str, value: float, limit: float, detail: str = "", examples: Sequence[str] = ()
) -> Outcome:
    """Passes when ``value <= limit``."""
    return Outcome(rule, value <= limit, value, limit, detail, tuple(examples[:5]))


def none_found(rule: str, findings: Sequence[str]) -> Outcome:
    """Passes when there are no ``findings``; shows the first three."""
    return at_most(rule, len(findings), 0, "; ".join(findings[:3]))


def at_least(rule: str, value: float, limit: float, detail: str = "") -> Outcome:
    """Passes when ``value >= limit``."""
    return Outcome(rule, value >= limit, value, limit, detail)


def same(rule: str, actual: object, wanted: object, detail: str = "") -> Outcome:
    """Passes when both are equal; shows both sides, hashes by their first digits."""
    return Outcome(rule, actual == wanted, _shown(actual), _shown(wanted), detail)


def not_applicable(rule: str, why: str) -> Outcome:
    """Neither passed nor failed: there is nothing that the gate could judge."""
    return Outcome(rule, None, word_of(None), "-", why)


def _shown(value: object) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(_shown, value))
    return re.sub(r"\b([0-9a-f]{12})[0-9a-f]{52}\b", r"\1", str(value))
