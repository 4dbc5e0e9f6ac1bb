"""``report_claims``: every sentence of the claims file, bound to the bytes of its number."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fer_assets.stage import Given, Limits, Recipe, Stage, Surroundings
from fer_ml.base.reading import read_file, sha256_file
from fer_ml.recipes.profile import Profile
from fer_ml.storage.artifact import Artifact
from fer_ml.storage.gates import Gate, Outcome, at_most
from fer_ml.storage.job import Job
from fer_ml.storage.store import RunFolder, Store

if TYPE_CHECKING:
    from fer_ml.claims.resolved import Resolved

GATES = (
    Gate(
        "all_grounded",
        "every claim is true and depends on current artifacts that passed their gates",
        "look at claims.json: correct the sentence, or materialize what is stale",
    ),
)


#: The contents of each file in the run folder; ``<...>`` stands for a name.
HOLDS = {
    "claims.json": (
        "`title`, `profile`, `synthetic` (the faces are synthetic), `names`, `counts` by status, "
        "`not_looked_at` (raw folders), `left_out`, `claims` and `lineage` "
        "([entries](#entries-of-claimsjson))"
    ),
    "claims.csv": "a row for each claim",
    "claims.yaml": "the claims file, so that the folder can be verified elsewhere",
}


@dataclass(frozen=True)
class ClaimsRecipe(Recipe):
    """What the claims state about the profile: its name, and whether its faces are synthetic."""

    profile: str
    drawn: bool

    @classmethod
    def of(cls, profile: Profile, partition: str | None) -> "ClaimsRecipe":
        """Return the recipe from the profile."""
        return cls(profile.name, profile.drawn)


def files(around: Surroundings, partition: str | None) -> dict[str, Any]:
    """Return the hash of the claims file."""
    path = around.claims_file()
    return {"claims_sha256": sha256_file(path) if path.is_file() else None}


def build(run: RunFolder, job: Job[ClaimsRecipe]) -> None:
    """Resolve every claim of the profile's claims file; keep the file with the results."""
    from fer_ml.claims.model import read_claims
    from fer_ml.claims.trace import Tracer
    from fer_ml.claims.verify import CLAIMS_COPY, verify

    path = job.paths["claims"]
    # A raw folder may have been moved since; what changed in it makes its manifest stale anyway.
    verification = verify(read_claims(path), Tracer(job.store, raw_elsewhere=True))
    run.path(CLAIMS_COPY).write_bytes(read_file(path))
    run.write_json(
        "claims.json",
        {**verification.to_json(), "profile": job.recipe.profile, "synthetic": job.recipe.drawn},
    )
    _write_table(run, verification.claims)
    run.summary.update(claims=len(verification.claims), **verification.counts)


def _write_table(run: RunFolder, resolved: "Sequence[Resolved]") -> None:
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


def judge(artifact: Artifact, store: Store, limits: Limits) -> list[Outcome]:
    """Judge whether every claim is grounded."""
    claims = artifact.read_json("claims.json")["claims"]
    bad = [f"{c['id']}: {c['status']}, {c['reason']}" for c in claims if c["status"] != "grounded"]
    return [at_most("all_grounded", len(bad), 0, examples=bad)]


def stages(given: Given) -> list[Stage]:
    """Return the stage of ``report_claims``; its inputs are exactly what the claims cite."""
    return [
        Stage(
            asset="report_claims",
            group="report",
            kinds=("json", "csv"),
            describe="Every sentence of the claims file, bound to the bytes of its number, with "
            "its status: grounded, drifted, stale, ungrounded, contradicted or not comparable.",
            cites=given.claimed,
            recipe=ClaimsRecipe.of,
            files=files,
            holds=HOLDS,
            build=build,
            gates=GATES,
            judge=judge,
            looks=True,
            code_version="4",
        )
    ]
