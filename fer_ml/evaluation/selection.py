"""Select the student to deploy by the dual gate, on val and the demo session, never on a test set.

The first student is the incumbent. Another student may replace it if it loses little on val (the
offline gate) and shows more expressions in the demo session without flickering (the demo gate).
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from fer_ml.base.errors import FerError
from fer_ml.base.reading import read_file
from fer_ml.metrics.comparability import comparable
from fer_ml.recipes.profile import CANDIDATES, VAL_SET, Selection
from fer_ml.storage.job import Job
from fer_ml.storage.store import RunFolder

WEAKEST = 3
#: A loss of exactly the limit must pass, whatever the last bit of a difference says.
ROUNDING = 1e-9
#: Pictures of the chosen student.
FIGURES = ("reliability.png", "confusion.png")
UNDECIDED = "undecided: "
SHOWS_MORE, IS_CALM = "demo_macro_f1", "demo_flips_per_minute"


@dataclass(frozen=True)
class Figures:
    """The figures of one student that are compared.

    F1 in 0..1; flips of the shown label a minute of track-time; ``None`` where the demo session
    cannot tell. ``val_weakest_f1`` is the mean of its own three lowest F1 of a class.
    ``demo_seconds`` is the time that faces were followed; ``demo_expressions`` began in it, and the
    label flipped ``demo_flips`` times.
    """

    val_macro_f1: float
    val_weakest_f1: float
    demo_macro_f1: float | None
    demo_flips_per_minute: float | None
    demo_seconds: float = 0.0
    demo_expressions: int = 0
    demo_flips: int = 0


@dataclass(frozen=True)
class Check:
    """One rule of the dual gate; ``passed=None`` is undecided and does not count."""

    rule: str
    value: float | None
    limit: float | None
    passed: bool | None
    reason: str


def weakest_f1(per_class_f1: Mapping[str, float]) -> float:
    """Return the mean of the three lowest class F1: the first pipeline's 'minority F1'."""
    return sum(sorted(per_class_f1.values())[:WEAKEST]) / WEAKEST


def dual_gate(new: Figures, old: Figures, limits: Selection) -> tuple[Check, ...]:
    """Check one student against the incumbent: two checks on val, two on the session."""
    return (
        _loses_at_most("val_macro_f1", new.val_macro_f1, old.val_macro_f1, limits.macro_f1_loss),
        _loses_at_most(
            "val_weakest_f1", new.val_weakest_f1, old.val_weakest_f1, limits.weakest_f1_loss
        ),
        _better(new, old, limits),
        _as_calm(new, old, limits),
    )


def select(
    figures: Mapping[str, Figures], limits: Selection
) -> tuple[str, dict[str, tuple[Check, ...]]]:
    """Return the student to deploy, and the checks of every student but the first, the incumbent.

    Of the students that fail no check the one with the highest macro-F1 on val wins. A tie goes to
    the earlier one, and the incumbent stays when there is none. Where the session cannot tell who
    is better, the incumbent competes too: then only val supports a change.
    """
    incumbent, *others = figures
    old = figures[incumbent]
    checks = {name: dual_gate(figures[name], old, limits) for name in others}
    passing = [name for name in others if not _failed(checks[name])]
    verdicts = [
        check.passed for name in others for check in checks[name] if check.rule == SHOWS_MORE
    ]
    if None in verdicts or not passing:
        passing.insert(0, incumbent)
    return max(passing, key=lambda name: figures[name].val_macro_f1), checks


def rule_text(limits: Selection) -> str:
    """Return the selection rule in words, with its limits."""
    return (
        f"{CANDIDATES[0]} stays unless another student passes the dual gate against it: on the "
        f"val split of hq_train_manifest macro-F1 falls by at most {limits.macro_f1_loss:g} and "
        f"the mean F1 of its three weakest classes by at most {limits.weakest_f1_loss:g}; on the "
        "demo session the shown labels have a higher macro-F1 and at most "
        f"{limits.flips_gain:.0%} more flips a minute. Of those that pass, the highest val "
        "macro-F1 wins; a tie goes to the earlier. A demo session without truth, with less than "
        f"{limits.least_seconds:g} s of faces or with fewer than {limits.least_events} events is "
        f"undecided and does not count, and {CANDIDATES[0]} then competes on val as well"
    )


def undecided(checks: Mapping[str, tuple[Check, ...]]) -> list[str]:
    """Return what the demo session lacks for a decision, each reason once."""
    reasons = (
        check.reason
        for student_checks in checks.values()
        for check in student_checks
        if check.passed is None
    )
    parts = (part for reason in reasons for part in reason.removeprefix(UNDECIDED).split("; "))
    return list(dict.fromkeys(parts))


def why(
    chosen: str, figures: Mapping[str, Figures], checks: Mapping[str, tuple[Check, ...]]
) -> str:
    """Explain the choice: whether the best student on val was chosen, and if not, why."""
    best = max(figures, key=lambda name: figures[name].val_macro_f1)
    if figures[chosen].val_macro_f1 == figures[best].val_macro_f1:
        return f"{chosen} has the highest macro-F1 on val"
    failed = [f"{c.rule}: {c.reason}" for c in checks.get(best, ()) if c.passed is False]
    reasons = "; ".join(failed) or f"{chosen} passes the dual gate against it"
    return f"{best} has the highest macro-F1 on val and was not chosen: {reasons}"


def select_student(run: RunFolder, job: Job[Any], limits: Selection) -> None:
    """Write ``selection.json``: the chosen student, and every figure, limit and verdict.

    The chosen student's reliability and confusion charts are written beside it, so that a reader
    who cites the selection shows the right ones. Raises ``FerError`` when the students' figures are
    not comparable.
    """
    entries = _entries(job)
    sessions = job.input("candidate_sessions").read_json("candidate_sessions.json")
    figures = {
        name: _figures(entry, sessions["candidates"].get(name, {}))
        for name, entry in entries.items()
    }
    chosen, checks = select(figures, limits)
    lacking = undecided(checks)
    candidates = {
        name: {
            **asdict(candidate),
            "verdict": _verdict(checks.get(name)),
            "checks": [asdict(check) for check in checks.get(name, ())],
        }
        for name, candidate in figures.items()
    }
    run.write_json(
        "selection.json",
        {
            "schema_version": 2,
            "selected": chosen,
            "sha256": entries[chosen]["model_sha256"],
            "incumbent": CANDIDATES[0],
            "rule": rule_text(limits),
            "limits": limits.model_dump(),
            "split": entries[chosen]["split"],
            "n": entries[chosen]["n"],
            "session": sessions["session"],
            "why": why(chosen, figures, checks),
            "outcome": "undecided" if lacking else "decided",
            "lacking": lacking,
            "session_says": f"nothing: {'; '.join(lacking)}"
            if lacking
            else "each check is decided",
            "candidates": candidates,
        },
    )
    student = job.input(chosen)
    for name in FIGURES:
        run.path(name).write_bytes(read_file(student.file(name)))
    run.splits.update(student="val")
    run.summary.update(
        selected=chosen,
        val_macro_f1=figures[chosen].val_macro_f1,
        **{name: candidate["verdict"] for name, candidate in candidates.items()},
    )


def _entries(job: Job[Any]) -> dict[str, dict[str, Any]]:
    """Return the val cell of every student; ``FerError`` when they are not comparable."""
    benchmark = job.input("benchmark").read_json("benchmark.json")["entries"]
    sessions = job.input("candidate_sessions").read_json("candidate_sessions.json")["candidates"]
    entries = {name: benchmark[name][VAL_SET] for name in CANDIDATES}
    for name, entry in entries.items():
        reasons = comparable(entries[CANDIDATES[0]], entry)
        if reasons:
            raise FerError(
                f"{CANDIDATES[0]} and {name} cannot be compared: {'; '.join(reasons)}",
                code="not-comparable",
                fix="materialize benchmark again",
            )
        played = sessions.get(name, {}).get("student_sha256", entry["model_sha256"])
        if played != entry["model_sha256"]:
            raise FerError(
                f"the benchmark measured {name} {entry['model_sha256'][:12]}, and the demo session "
                f"played {played[:12]}",
                code="networks-differ",
                fix="materialize benchmark, candidate_bundles and candidate_sessions again",
            )
    return entries


def _figures(entry: Mapping[str, Any], session: Mapping[str, Any]) -> Figures:
    return Figures(
        entry["raw"]["macro_f1"],
        weakest_f1(entry["raw"]["per_class_f1"]),
        session.get("macro_f1_stabilised"),
        session.get("flips_per_minute_stabilised"),
        session.get("seconds", 0.0),
        session.get("expressions", 0),
        session.get("flips", 0),
    )


def _loses_at_most(rule: str, new: float, old: float, limit: float) -> Check:
    reason = f"{new:.4f} against {old:.4f}, {new - old:+.4f}; may fall by {limit:g}"
    return Check(rule, old - new, limit, old - new <= limit + ROUNDING, reason)


def _better(new: Figures, old: Figures, limits: Selection) -> Check:
    ours, theirs = new.demo_macro_f1, old.demo_macro_f1
    if ours is None or theirs is None:
        reason = f"{UNDECIDED}the demo session has no face of a known expression to be replayed"
        return Check(SHOWS_MORE, ours, theirs, None, reason)
    events = min(new.demo_expressions, old.demo_expressions)
    if lacks := _lacks(new, old, events, "expressions of a face that begin", limits):
        return Check(SHOWS_MORE, ours, theirs, None, lacks)
    reason = f"{ours:.4f} against {theirs:.4f}, {ours - theirs:+.4f}; must rise"
    return Check(SHOWS_MORE, ours, theirs, ours > theirs, reason)


def _as_calm(new: Figures, old: Figures, limits: Selection) -> Check:
    ours, theirs = new.demo_flips_per_minute, old.demo_flips_per_minute
    if ours is None or theirs is None:
        reason = f"{UNDECIDED}no face is followed in the demo session"
        return Check(IS_CALM, ours, None, None, reason)
    limit = (1 + limits.flips_gain) * theirs
    flips = new.demo_flips + old.demo_flips
    if lacks := _lacks(new, old, flips, "flips of both students", limits):
        return Check(IS_CALM, ours, limit, None, lacks)
    reason = f"{ours:.1f} a minute against {theirs:.1f}; may rise by {limits.flips_gain:.0%}"
    return Check(IS_CALM, ours, limit, ours <= limit + ROUNDING, reason)


def _lacks(new: Figures, old: Figures, events: int, what: str, limits: Selection) -> str:
    """Say why the session is too short to decide; empty if it is long enough."""
    seconds = min(new.demo_seconds, old.demo_seconds)
    lacks = []
    if seconds < limits.least_seconds:
        lacks.append(f"{seconds:.1f} s of faces, at least {limits.least_seconds:g} s are needed")
    if events < limits.least_events:
        lacks.append(f"{events} {what}, at least {limits.least_events} are needed")
    return f"{UNDECIDED}{'; '.join(lacks)}" if lacks else ""


def _failed(checks: tuple[Check, ...]) -> list[str]:
    return [check.rule for check in checks if check.passed is False]


def _verdict(checks: tuple[Check, ...] | None) -> str:
    if checks is None:
        return "incumbent"
    failed = _failed(checks)
    undecided = [check.rule for check in checks if check.passed is None]
    verdict = f"fails {', '.join(failed)}" if failed else "passes"
    return verdict + (f"; undecided: {', '.join(undecided)}" if undecided else "")
