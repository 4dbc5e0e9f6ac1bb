"""Gates: rules that an artifact must pass before anything may be computed from it.

A gate is declared beside its asset's stage. An evaluator judges all gates of one artifact at once
and returns an ``Outcome`` for each. The outcome is written as a receipt beside the artifact.
``Store.require`` refuses an artifact if a blocking gate failed or has no receipt.

A gate with nothing to judge (a replay without a recorded session) is not applicable: it counts
neither as passed nor as failed. A gate that lacks the data it needs has failed.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from fer_ml.base.errors import FerError


@dataclass(frozen=True)
class Gate:
    """One rule: its name, the question it answers, and whether a failure blocks or warns.

    ``blocks_with`` names a yes-or-no field of the stage's limits: when that is set, a gate that
    otherwise warns blocks. ``measured_in`` is set for gates on speed and names the asset that
    measured it. Speed depends on the machine and its load, so after a failure it is measured again.
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
    """Return a verdict as a word; ``passed=None`` stands for a gate with nothing to judge."""
    if passed is None:
        return "not applicable"
    return "passed" if passed else "failed"


@dataclass(frozen=True)
class Outcome:
    """The result of one gate: measured value, limit, and a few examples.

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
    """Return an outcome that passes when ``value <= limit``."""
    return Outcome(rule, value <= limit, value, limit, detail, tuple(examples[:5]))


def none_found(rule: str, findings: Sequence[str]) -> Outcome:
    """Return an outcome that passes when ``findings`` is empty; it shows the first three."""
    return at_most(rule, len(findings), 0, "; ".join(findings[:3]))


def at_least(rule: str, value: float, limit: float, detail: str = "") -> Outcome:
    """Return an outcome that passes when ``value >= limit``."""
    return Outcome(rule, value >= limit, value, limit, detail)


def same(rule: str, actual: object, wanted: object, detail: str = "") -> Outcome:
    """Return an outcome that passes when both are equal; it shows the first digits of hashes."""
    return Outcome(rule, actual == wanted, _shown(actual), _shown(wanted), detail)


def not_applicable(rule: str, why: str) -> Outcome:
    """Return an outcome that neither passes nor fails because there is nothing to judge."""
    return Outcome(rule, None, word_of(None), "-", why)


def _shown(value: object) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(_shown, value))
    return re.sub(r"\b([0-9a-f]{12})[0-9a-f]{52}\b", r"\1", str(value))
