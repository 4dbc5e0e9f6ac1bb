"""The asset ``report_claims``."""

import csv
from collections.abc import Sequence

from fer_assets.stages.job import Job
from fer_ml.claims.model import read_claims
from fer_ml.claims.resolve import Resolved
from fer_ml.claims.trace import Tracer
from fer_ml.claims.verify import CLAIMS_COPY, verify
from fer_ml.recipes.profiles import Profile
from fer_ml.storage.gates import Outcome
from fer_ml.storage.store import Artifact, RunFolder, Store


def build_claims(run: RunFolder, job: Job) -> None:
    """Resolve every claim of the profile's claims file, and keep the file with the outcome."""
    path = job.paths["claims"]
    # A raw folder may have been moved since; what changed in it makes its manifest stale anyway.
    found = verify(read_claims(path), Tracer(job.store, raw_elsewhere=True))
    run.path(CLAIMS_COPY).write_bytes(path.read_bytes())
    run.write_json(
        "claims.json",
        {**found.to_json(), "profile": job.profile.name, "synthetic": job.profile.drawn},
    )
    _write_table(run, found.claims)
    run.summary.update(claims=len(found.claims), **found.counts)


def _write_table(run: RunFolder, resolved: Sequence[Resolved]) -> None:
    with run.path("claims.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "kind", "status", "sentence", "value", "asset", "file", "reason"])
        for r in resolved:
            asset = r.artifact.key if r.artifact else r.claim.asset
            value = r.value if isinstance(r.value, int | float) else None
            file_name = getattr(r.claim, "file", None)
            writer.writerow(
                [
                    r.claim.id,
                    r.claim.kind,
                    r.status,
                    r.sentence(),
                    value,
                    asset,
                    file_name,
                    r.reason,
                ]
            )


def gate_claims(artifact: Artifact, store: Store, profile: Profile) -> list[Outcome]:
    """Every claim is grounded."""
    claims = artifact.read_json("claims.json")["claims"]
    bad = [f"{c['id']}: {c['status']}, {c['reason']}" for c in claims if c["status"] != "grounded"]
    return [Outcome("all_grounded", not bad, len(bad), 0, "", tuple(bad[:5]))]
