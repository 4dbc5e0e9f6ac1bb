"""Findings of an examination: checks that passed or failed, and what could not be verified."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from fer_ml.base.labels import CLASSES

#: Shares were printed or stored to six decimals.
HALF_UNIT = 5e-7
#: Beyond this, every number of six decimals is k/n for some k.
MAX_N = 500_000


@dataclass
class Findings:
    """Checks with their outcome, what could not be verified, and figures for the summary."""

    checks: list[dict[str, Any]] = field(default_factory=list)
    unverified: list[str] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)

    def check(self, name: str, holds: bool, detail: str) -> None:
        """Record one check within the files; ``holds`` says whether it passed."""
        self.checks.append({"check": name, "holds": bool(holds), "detail": detail})

    def cannot(self, what: str) -> None:
        """Record one thing that could not be verified."""
        self.unverified.append(what)

    @property
    def contradictions(self) -> list[str]:
        """The checks that failed, as text."""
        return [f"{c['check']}: {c['detail']}" for c in self.checks if not c["holds"]]


def is_share(value: float, n: int) -> bool:
    """Return whether ``value``, known to six decimals, is k/n for a whole k in 0..n."""
    k = round(value * n)
    return 0 <= k <= n and abs(k / n - value) < HALF_UNIT


def near(a: float, b: float, tolerance: float = 1e-6) -> bool:
    """Return whether two stored numbers differ by at most ``tolerance``."""
    return abs(a - b) <= tolerance


def check_finite(findings: Findings, name: str, numbers: Mapping[str, float | None]) -> bool:
    """Check that present numbers are finite and shares lie in 0..1; return whether they are."""
    bad = [
        f"{key} = {value}"
        for key, value in numbers.items()
        if value is not None
        and (not math.isfinite(value) or value < 0 or (key not in ("nll", "brier") and value > 1))
    ]
    findings.check(f"{name}_in_range", not bad, ", ".join(bad) or "shares in 0..1, NLL at least 0")
    return not bad


def check_share(findings: Findings, name: str, value: float, n: int | None, n_from: str) -> None:
    """Check that an accuracy is k/n; ``n_from`` names the file that states n."""
    if n is None:
        findings.cannot(f"{name} {value:.6f}: the files do not say of how many rows")
    elif n > MAX_N:
        findings.cannot(f"{name} {value:.6f} as k/{n}: with so many rows every such figure is one")
    else:
        holds = n > 0 and is_share(value, n)
        fraction = f"{round(value * n)}/{n}" if holds else f"not k/{n} for any whole k"
        findings.check(f"{name}_is_k_of_n", holds, f"{value:.6f} is {fraction} (n from {n_from})")


def check_class_order(findings: Findings, where: str, names: Iterable[str]) -> None:
    """Check that class names, where given, are in the canonical order."""
    listed = list(names)
    findings.check(f"class_order_of_{where}", listed == list(CLASSES), ", ".join(listed))
