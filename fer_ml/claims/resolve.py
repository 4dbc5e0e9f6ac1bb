"""Every claim against the artifacts: value, status, and the path it rests on."""

import json
import math
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal
from typing import Any, Literal

from fer_ml.claims.model import Claim, resolve_pointer
from fer_ml.claims.trace import Node, Tracer
from fer_ml.errors import FerError
from fer_ml.store import Artifact, Store

Status = Literal["grounded", "drifted", "stale", "ungrounded", "contradicted"]


@dataclass(frozen=True)
class Resolved:
    """A claim with its value, status, the reason for it, and its trace.

    - ``grounded``: the value holds, and all bytes it rests on are current and gated
    - ``drifted``: bytes it rests on differ from their record
    - ``stale``: something upstream changed since, or its gate has not passed
    - ``ungrounded``: there is no such artifact, file or number
    - ``contradicted``: the artifact holds another value, or the numbers do not fit together
    """

    claim: Claim
    status: Status
    reason: str
    value: float | None
    artifact: Artifact | None
    trace: Node | None

    def sentence(self) -> str:
        """The sentence with the value at its printed precision."""
        shown = "?" if self.value is None else f"{self.value:,.{self.claim.decimals}f}"
        return self.claim.sentence.replace("{value}", shown)

    def to_json(self) -> dict[str, Any]:
        """One entry of ``claims.json``."""
        record = self.artifact.record if self.artifact else None
        nodes = list(self.trace.walk()) if self.trace else []
        return {
            "id": self.claim.id,
            "sentence": self.sentence(),
            "status": self.status,
            "reason": self.reason,
            "value": self.value,
            "expected": self.claim.expected,
            "decimals": self.claim.decimals,
            "artifact": {
                "asset": self.claim.asset,
                "partition": self.claim.partition,
                "file": self.claim.file,
                "pointer": self.claim.pointer,
                "sha256": record.sha256 if record else None,
                "file_sha256": record.files[self.claim.file].sha256
                if record and self.claim.file in record.files
                else None,
                "run_id": record.run_id if record else None,
                "created_at": record.created_at if record else None,
                "code_version": record.code_version if record else None,
            },
            "rests_on": {node.item.key: node.item.sha256 for node in nodes[1:]},
            "splits": {
                f"{node.item.key}: {choice}": split
                for node in nodes
                if node.artifact
                for choice, split in node.artifact.record.splits.items()
            },
        }


def resolve_claim(claim: Claim, store: Store, tracer: Tracer) -> Resolved:
    """Look a claim up, hold it against its artifact, and walk its lineage."""
    artifact = store.current(claim.asset, claim.partition)
    if artifact is None:
        return Resolved(claim, "ungrounded", "the asset has not been made", None, None, None)
    trace = tracer.trace(artifact)
    problem = _problem(trace)
    if problem is not None and problem[0] == "drifted":
        return Resolved(claim, *problem, None, artifact, trace)
    try:
        document = _document(artifact, claim.file)
        value = _number(document, claim.pointer)
        fault = _contradiction(claim, document, value)
    except FerError as error:
        return Resolved(claim, "ungrounded", error.what, None, artifact, trace)
    except KeyError as error:
        reason = f"no number at {error.args[0]}"
        return Resolved(claim, "ungrounded", reason, None, artifact, trace)
    if fault:
        return Resolved(claim, "contradicted", fault, value, artifact, trace)
    if problem is not None:
        return Resolved(claim, *problem, value, artifact, trace)
    return Resolved(claim, "grounded", "", value, artifact, trace)


def _problem(trace: Node) -> tuple[Status, str] | None:
    worst: tuple[Status, str] | None = None
    for node in trace.walk():
        if node.problem is None:
            continue
        if node.problem.startswith("damaged"):
            return "drifted", f"{node.item.key}: {node.problem}"
        worst = worst or ("stale", f"{node.item.key}: {node.problem}")
    return worst


def _document(artifact: Artifact, name: str) -> Any:
    path = artifact.file(name)
    if path.suffix != ".json":
        raise FerError(f"{name} is not JSON", where=path)
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise FerError(f"{name} is not JSON: {error}", where=path) from error


def _number(document: Any, pointer: str) -> float:
    value = resolve_pointer(document, pointer)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise KeyError(pointer)
    return value


def _contradiction(claim: Claim, document: Any, value: float) -> str | None:
    if claim.expected is not None and not rounds_to(value, claim.expected, claim.decimals):
        return f"the artifact holds {value}, the claim says {claim.expected}"
    if claim.n_pointer is not None:
        n = _number(document, claim.n_pointer)
        if not is_proportion(value, n):
            return f"{value} is not k/{n} for any whole k"
    if claim.parts:
        total = sum(_number(document, pointer) for pointer in claim.parts)
        if abs(total - value) > 1e-9:
            return f"the parts add up to {total}, not {value}"
    return None


def rounds_to(value: float, printed: float, decimals: int) -> bool:
    """Whether ``value`` printed at ``decimals`` is ``printed`` (halves may go either way)."""
    step = Decimal(1).scaleb(-decimals)
    wanted = Decimal(str(printed)).quantize(step, ROUND_HALF_UP)
    return abs(Decimal(str(value)) - wanted) <= step / 2


def is_proportion(value: float, n: float) -> bool:
    """Whether n is whole and ``value`` is k/n for a whole k, up to the rounding of a float."""
    return n > 0 and n == int(n) and 0 <= value <= 1 and abs(round(value * n) / n - value) < 1e-12
