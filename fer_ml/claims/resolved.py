"""A checked claim with its status, as written to and read from ``claims.json``."""

from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Literal

from fer_ml.claims.model import Claim
from fer_ml.claims.printed import printed, show, show_like
from fer_ml.claims.trace import Node, walk
from fer_ml.claims.values import Number, SourcedNumber
from fer_ml.metrics.comparability import look_note
from fer_ml.storage.artifact import Artifact

Status = Literal["grounded", "drifted", "stale", "ungrounded", "contradicted", "not_comparable"]
STATUSES: tuple[Status, ...] = (
    "grounded",
    "drifted",
    "stale",
    "ungrounded",
    "contradicted",
    "not_comparable",
)
#: A table's cells by row and column; lowest and highest of a range; a comparison's two sides.
Value = Number | dict[str, dict[str, Number]] | dict[str, Number] | None


@dataclass(frozen=True)
class Resolved:
    """A claim with its value, status, the reason for the status, and its lineage.

    - ``grounded``: the claim holds, and all artifacts it rests on are current and passed their
      gates
    - ``drifted``: bytes it rests on differ from their record
    - ``stale``: an upstream artifact changed since, or its gate has not passed
    - ``ungrounded``: no artifact is named, the artifact, file or number does not exist, or the
      sentence contains a number that nothing supports
    - ``contradicted``: the artifact holds another value, or the numbers are inconsistent
    - ``not_comparable``: it compares numbers that were measured differently

    ``traces`` are the traces of the cited artifacts, the claim's own first. ``numbers`` are those
    that were read from them. ``text`` is the printed form of a value that is not a single number.
    """

    claim: Claim
    status: Status
    reason: str = ""
    value: Value = None
    traces: tuple[Node, ...] = ()
    numbers: tuple[SourcedNumber, ...] = ()
    text: str = ""

    @property
    def artifact(self) -> Artifact | None:
        """The cited artifact, or the first of several."""
        return self.traces[0].artifact if self.traces else None

    def sentence(self) -> str:
        """The sentence with its number filled in."""
        return self.claim.sentence.replace("{value}", self.shown())

    def shown(self) -> str:
        """The printed value, with the decimals of the text; ``?`` without a value."""
        expected = getattr(self.claim, "expected", None)
        if not isinstance(self.value, int | float):
            return self.text or "?"
        if not isinstance(expected, str):
            return show(self.value, _decimals(self.claim, self.value))
        # A half may be rounded either way: then as the text does it.
        holds = printed(expected).holds(self.value)
        return show_like(float(printed(expected).value) if holds else self.value, expected)

    def _measured_on(self) -> dict[str, Any] | None:
        """Return the evaluation set of the number; ``None`` if it is not a measurement."""
        evaluation = self.numbers[0].measured_on() if self.numbers else {}
        return evaluation if evaluation.get("split") is not None else None

    @property
    def looked_before(self) -> str:
        """The mark of a number whose rows were seen before a decision was made, or empty text."""
        return look_note(self._measured_on() or {})

    def to_json(self) -> dict[str, Any]:
        """One entry of ``claims.json``; hashes, dates and receipts stand in its ``lineage``.

        ``value`` is a number; for a table it is by row and column, for a range ``low`` and
        ``high``, for a comparison ``left`` and ``right``. ``shown`` is the printed number,
        ``artifact`` the cited artifact, ``measured_on`` the evaluation set, ``rests_on`` all
        artifacts below, ``raw`` the fingerprints of raw folders, and ``splits`` the choices along
        the whole lineage.
        """
        claim, artifact = self.claim, self.artifact
        name = getattr(claim, "file", None)
        record = artifact.record if artifact else None
        entry = record.files.get(name) if record and name else None
        nodes = list(walk(self.traces))
        return {
            "id": claim.id,
            "kind": claim.kind,
            "section": claim.section,
            "sentence": self.sentence(),
            "status": self.status,
            "reason": self.reason,
            "value": self.value,
            "shown": self.shown(),
            "expected": getattr(claim, "expected", None),
            "decimals": _decimals(claim, self.value),
            "artifact": {
                "asset": record.asset if record else claim.asset or "",
                "partition": record.partition if record else claim.partition,
                "file": name or "",
                "pointer": getattr(claim, "pointer", ""),
                "sha256": record.sha256 if record else None,
                "recipe_sha256": record.recipe_sha256 if record else None,
                "file_sha256": entry.sha256 if entry else None,
                "materialization": artifact.folder.name if artifact else None,
                "run_id": record.run_id if record else None,
                "created_at": record.created_at if record else None,
                "code_version": record.code_version if record else None,
            },
            "measured_on": self._measured_on(),
            "rests_on": [{"asset": n.item.key, "sha256": n.item.sha256} for n in nodes],
            "raw": {n.item.key: n.item.sha256 for n in nodes if n.item.root is not None},
            "splits": {
                f"{node.item.key}: {choice}": split
                for node in nodes
                if node.artifact
                for choice, split in node.artifact.record.splits.items()
            },
        }


def upstream_assets(entry: dict[str, Any]) -> list[str]:
    """Return the labels of all assets that an entry of ``claims.json`` rests on, nearest first."""
    return list(dict.fromkeys(step["asset"] for step in entry["rests_on"]))


def _decimals(claim: Claim, value: Value) -> int:
    """Return the number of printed decimals: the claim's, or else all that the value has."""
    expected = getattr(claim, "expected", None)
    if isinstance(expected, str):
        return len(expected.rstrip("%").partition(".")[2])
    decimals: int | None = getattr(claim, "decimals", None)
    if decimals is not None or not isinstance(value, int | float):
        return decimals or 0
    return max(0, -int(Decimal(str(value)).normalize().as_tuple().exponent))
