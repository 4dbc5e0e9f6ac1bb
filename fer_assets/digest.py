"""The digest: what in a profile is failed, stale or unverified, and what to do about each entry.

It reads artifacts, receipts and claims, verifies every byte, and writes nothing.
"""

import shlex
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

from fer_assets.lineage import Target
from fer_assets.pages import downstream
from fer_assets.pipeline import Pipeline
from fer_assets.staleness import stale_reason
from fer_ml.base.errors import FerError
from fer_ml.base.notify import Notice
from fer_ml.claims.verify import verify_store
from fer_ml.storage.artifact import Artifact

#: ``red``: wrong, or refused by a blocking gate. ``stale``: made of what has changed since.
#: ``unverified``: nobody looked, or too long ago. ``warns``: a gate that blocks nothing.
State = Literal["red", "stale", "unverified", "warns"]
STATES: tuple[State, ...] = ("red", "stale", "unverified", "warns")
STATE_OF_CLAIM: Mapping[str, State] = {
    "drifted": "red",
    "contradicted": "red",
    "not_comparable": "red",
    "stale": "stale",
    "ungrounded": "unverified",
}


@dataclass(frozen=True)
class Entry:
    """One entry that is not green: an asset, a gate of an asset, a claim or a raw folder.

    ``resting`` is the number of assets that depend on it, directly or indirectly.
    """

    state: State
    kind: Literal["asset", "gate", "claim", "raw"]
    name: str
    what: str
    fix: str
    resting: int = 0


@dataclass(frozen=True)
class Digest:
    """All entries of one profile that are not green, the worst first, and their counts."""

    profile: str
    looked_at: datetime
    entries: tuple[Entry, ...]
    made: int
    not_made: int
    claims: int

    @property
    def counts(self) -> dict[str, int]:
        """Return the number of entries by state."""
        return {state: sum(e.state == state for e in self.entries) for state in STATES}

    @property
    def headline(self) -> str:
        """Return one line: the counts, or that all artifacts are green; and what is not made."""
        counts = {**self.counts, "not made": self.not_made}
        parts = [f"{n} {state}" for state, n in counts.items() if n]
        if not self.entries:
            parts.insert(0, "all green" if self.made else "nothing looked at")
        return f"fer {self.profile}: {', '.join(parts)}"

    def to_json(self) -> dict[str, Any]:
        """Return the digest as JSON values."""
        return {
            "schema_version": 1,
            "profile": self.profile,
            "looked_at": self.looked_at.isoformat(timespec="seconds"),
            "counts": self.counts,
            "made": self.made,
            "not_made": self.not_made,
            "claims": self.claims,
            "entries": [asdict(entry) for entry in self.entries],
        }

    def text(self) -> str:
        """Return the digest as plain text for a mail or a log."""
        lines = []
        for state in STATES:
            entries = [entry for entry in self.entries if entry.state == state]
            lines += [f"{state} ({len(entries)})"] if entries else []
            for entry in entries:
                rests = f" (assets that rest on it: {entry.resting})" if entry.resting else ""
                lines += [f"  {entry.name}: {entry.what}{rests}", f"    fix: {entry.fix}"]
        lines.append(
            f"{self.made} artifacts and {self.claims} claims looked at; {self.not_made} not made."
        )
        return "\n".join(lines)

    def page(self) -> str:
        """Return the digest as one HTML page without scripts; it needs no network."""
        from fer_ml.figures.page import render_page  # Here, because a terminal needs none of it.

        template = Path(__file__).with_name("digest.html.j2")
        return render_page(template, digest=self, states=STATES, address=None)

    def notice(self) -> Notice:
        """Return the digest as a notice that can be sent."""
        return Notice("digest", self.headline, self.text(), self.to_json(), self.page())


def digest_of(pipeline: Pipeline, now: datetime | None = None) -> Digest:
    """Examine everything made for a profile; ages are measured at ``now`` (default: now)."""
    now = now or datetime.now(UTC)
    fingerprints = pipeline.fingerprints()
    made: set[Target] = set()
    entries: list[Entry] = []
    for target in pipeline.targets():
        try:
            artifact = pipeline.store.current(target.asset, target.partition)
            if artifact is None:
                continue
            made.add(target)
            entries += _asset(pipeline, target, artifact, fingerprints, now)
        except FerError as error:  # Something else lies there, or where it rests.
            made.add(target)
            what = f"{error.what}: {error.where}" if error.where else error.what
            fix = error.fix or f"restore {target.label}, or remove it and materialize it again"
            entries.append(Entry("red", "asset", target.label, what, fix))
    entries += _raw(pipeline, fingerprints)
    claims = 0
    if pipeline.claims_file().is_file() and made:
        claim_entries = list(_claims(pipeline, fingerprints))
        claims = len(claim_entries)
        entries += [entry for entry in claim_entries if entry is not None]
    return Digest(
        pipeline.profile.name,
        now,
        tuple(sorted(entries, key=lambda entry: STATES.index(entry.state))),
        len(made),
        sum(pipeline.standard(t) and t not in made for t in pipeline.targets()),
        claims,
    )


def _asset(
    pipeline: Pipeline,
    target: Target,
    artifact: Artifact,
    fingerprints: Mapping[str, str],
    now: datetime,
) -> Iterator[Entry]:
    stage = pipeline.stage(target.asset)
    resting = len(downstream(pipeline.stages, target.asset)) - 1
    make = f"fer materialize -p {pipeline.profile.name} --select {shlex.quote(target.label)}"
    # A folder that is not here has not changed as far as anybody can tell; it is told apart.
    raw_inputs = {item.asset: item.sha256 for item in artifact.record.inputs if item.root}
    raw = {
        asset.removeprefix("raw/"): sha256
        for asset, sha256 in {**raw_inputs, **fingerprints}.items()
    }
    reason = stale_reason(pipeline, target, raw)
    if reason is not None:
        state: State = "red" if reason.startswith("damaged") else "stale"
        yield Entry(state, "asset", target.label, reason, make, resting)
    receipts = artifact.receipts()
    for gate in pipeline.gates(target.asset):
        name, receipt = f"{target.label} {gate.rule}", receipts.get(gate.rule)
        if receipt is None:
            yield Entry("unverified", "gate", name, "has not judged these bytes", make, resting)
        elif receipt.passed is False:
            figures = f"{_figure(receipt.value)}, limit {_figure(receipt.limit)}"
            what = f"{figures}. {receipt.detail}" if receipt.detail else figures
            yield Entry(
                "red" if gate.blocking else "warns",
                "gate",
                name,
                what,
                f"{gate.fix}; then {make}",
                resting if gate.blocking else 0,
            )
    limit = stage.fresh_hours
    if limit is not None and now - artifact.record.made_at > timedelta(hours=limit):
        hours = (now - artifact.record.made_at) / timedelta(hours=1)
        yield Entry(
            "unverified",
            "asset",
            target.label,
            f"looked last {hours:.0f} h ago, limit {limit} h",
            "start the job revalidate, or look why nightly_revalidation did not",
            resting,
        )


def _figure(value: float | str) -> str:
    """Format a figure; counts come back from a receipt as floats."""
    whole = isinstance(value, float) and value.is_integer()
    return str(int(value)) if whole else str(value)


def _raw(pipeline: Pipeline, fingerprints: Mapping[str, str]) -> Iterator[Entry]:
    for source in pipeline.profile.sources:
        asset = f"raw/{source.name}"
        if asset not in fingerprints and pipeline.store.current(f"manifest/{source.name}"):
            yield Entry(
                "unverified",
                "raw",
                asset,
                "the raw folder is not here, so nobody can tell whether it changed",
                f"mount it, or set {source.name} under [roots] in fer.toml",
                len(downstream(pipeline.stages, f"manifest/{source.name}")),
            )


def _claims(pipeline: Pipeline, fingerprints: Mapping[str, str]) -> Iterator[Entry | None]:
    """Return an entry for each claim; ``None`` for a grounded one."""
    try:
        verification = verify_store(pipeline.store, pipeline.claims_file(), fingerprints)
    except FerError as error:
        name = f"claims/{pipeline.claims_file().name}"
        yield Entry("red", "claim", name, error.what, error.fix or "mend the claims file")
        return
    for claim in verification.claims:
        state = STATE_OF_CLAIM.get(claim.status)
        what = f"{claim.status.replace('_', ' ')}: {claim.reason}"
        fix = f"fer trace -p {pipeline.profile.name} {claim.claim.id}"
        yield None if state is None else Entry(state, "claim", claim.claim.id, what, fix)
