"""Verify claims against an artifact directory; needs nothing else of this program."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fer_ml.base.errors import FerError
from fer_ml.claims.model import ClaimsFile, read_claims
from fer_ml.claims.resolve import Resolver
from fer_ml.claims.resolved import STATUSES, Resolved
from fer_ml.claims.trace import Node, Tracer, walk
from fer_ml.storage.artifact import Demands
from fer_ml.storage.record import read_record
from fer_ml.storage.store import Store

#: The asset that keeps a copy of the claims file it was made from, and that copy.
CLAIMS_ASSET = "report_claims"
CLAIMS_COPY = "claims.yaml"


@dataclass(frozen=True)
class Verified:
    """A claims file and the checked claims."""

    held: ClaimsFile
    claims: tuple[Resolved, ...]

    @property
    def green(self) -> bool:
        """Whether every claim is grounded."""
        return all(claim.status == "grounded" for claim in self.claims)

    @property
    def counts(self) -> dict[str, int]:
        """The number of claims with each status."""
        return {status: sum(c.status == status for c in self.claims) for status in STATUSES}

    @property
    def lineage(self) -> list[Node]:
        """Every distinct step that a claim rests on."""
        return list(walk(node for claim in self.claims for node in claim.traces))

    @property
    def not_looked_at(self) -> list[str]:
        """Raw folders on other machines, whose fingerprints could not be checked."""
        return sorted({node.item.key for node in self.lineage if not node.looked})

    @property
    def left_out(self) -> dict[str, list[str]]:
        """Files that exported evidence omits, by asset; only their hashes are known."""
        by_asset = {n.item.key: n.artifact.left_out() for n in self.lineage if n.artifact}
        return {asset: names for asset, names in sorted(by_asset.items()) if names}

    def require_grounded(self) -> None:
        """Raise ``FerError`` unless every claim is grounded."""
        red = [f"{c.claim.id} is {c.status}" for c in self.claims if c.status != "grounded"]
        if red:
            raise FerError(
                f"only grounded claims can be exported: {', '.join(red[:5])}",
                code="claims-not-grounded",
                fix="run 'fer materialize', or name the claims that are grounded",
            )

    def to_json(self) -> dict[str, Any]:
        """Return everything as JSON values; a claim's ``rests_on`` names steps of ``lineage``."""
        return {
            "schema_version": 2,
            "title": self.held.title,
            "names": list(self.held.names),
            "counts": self.counts,
            "not_looked_at": self.not_looked_at,
            "left_out": self.left_out,
            "claims": [claim.to_json() for claim in self.claims],
            "lineage": [node.to_json() for node in self.lineage],
        }


def verify(claims_file: ClaimsFile, tracer: Tracer) -> Verified:
    """Check every claim of a file."""
    return Verified(claims_file, tuple(Resolver(tracer).all(claims_file)))


def verify_folder(
    folder: Path,
    claims: Path | None = None,
    fingerprints: Mapping[str, str] | None = None,
    demands: Demands | None = None,
) -> Verified:
    """Verify ``claims``, or else the claims kept in the directory, against an artifact directory.

    ``folder`` is the artifact root of one profile, wherever it was copied to. ``demands`` lists the
    gates its artifacts must have passed. Without it a failed receipt counts, but a missing one
    cannot be noticed.
    """
    return verify_store(
        Store(folder, profile_of(folder), demands=demands or Demands()), claims, fingerprints
    )


def verify_store(
    store: Store, claims: Path | None, fingerprints: Mapping[str, str] | None
) -> Verified:
    """Verify claims against the artifacts of a store.

    ``fingerprints`` are those of the raw folders now. Without them a raw folder is compared with
    the folder at the recorded place, and counts as elsewhere if that does not exist.
    """
    if claims is None:
        claims = _kept_claims(store)
    tracer = Tracer(store, fingerprints, raw_elsewhere=fingerprints is None)
    return verify(read_claims(claims), tracer)


def _kept_claims(store: Store) -> Path:
    kept = store.current(CLAIMS_ASSET) if store.root.is_dir() else None
    if kept is None or CLAIMS_COPY not in kept.record.files:
        raise FerError(
            "the folder holds no claims",
            code="no-claims-kept",
            where=store.root,
            allowed="the artifact folder of a profile in which report_claims was made",
            fix="name a claims file with --claims, or the folder of one profile, such as "
            "outputs/sample",
        )
    damage = kept.damage()
    if damage:
        raise FerError(
            f"the claims in the folder were changed: {damage}",
            code="artifact-changed",
            where=kept.folder,
            fix="run 'fer materialize', or restore the folder",
        )
    return kept.file(CLAIMS_COPY)


def profile_of(root: Path) -> str:
    """Return the profile of the artifacts below ``root``; ``FerError`` if there are several.

    Records that cannot be read are skipped here; opening them raises the error.
    """
    found = set()
    for folder in Store(root, "").runs():
        with suppress(FerError):
            found.add(read_record(folder).profile)
    if len(found) > 1:
        raise FerError(
            f"the folder holds artifacts of several profiles: {', '.join(sorted(found))}",
            code="several-profiles",
            where=root,
            allowed="the artifact folder of one profile",
            fix="take out what was put there from another one",
        )
    return found.pop() if found else root.name
