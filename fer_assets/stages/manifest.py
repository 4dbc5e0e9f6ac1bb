"""``manifest/<source>``: one source, cleaned. One stage for each source of the profile."""

from dataclasses import dataclass
from functools import partial
from typing import Any

from fer_assets.stage import DECODING, Given, Limits, Recipe, Stage, Surroundings
from fer_ml.base.errors import FerError
from fer_ml.recipes.profile import Profile
from fer_ml.storage.artifact import PURGED_FILE, Artifact
from fer_ml.storage.gates import Gate, Outcome
from fer_ml.storage.job import Job
from fer_ml.storage.store import RunFolder, Store

GATES = (
    Gate(
        "reconciled",
        "rows listed by the publisher = rows kept + excluded + quarantined",
        "a row was lost: report this as a fault of the adapter",
    ),
    Gate(
        "quarantine_empty",
        "no row of the source was faulty",
        "look at quarantine.csv: restore the files or correct the labels, then clean again",
        blocking=False,
    ),
)


@dataclass(frozen=True)
class SourceRecipe(Recipe):
    """How a source is read: its adapter, and what that is told."""

    adapter: str
    options: dict[str, str]

    @classmethod
    def of(cls, source: str, profile: Profile, partition: str | None) -> "SourceRecipe":
        """The profile's part on ``source``."""
        held = profile.source(source)
        return cls(held.adapter, held.options)


def files(source: str, around: Surroundings, partition: str | None) -> dict[str, Any]:
    """The purged photos of ``source``, which stay out; no key where there are none."""
    from fer_ml.privacy.log import read_log

    purged = sorted(read_log(around.settings.home).photos(source))
    return {"purged": purged} if purged else {}


def build(run: RunFolder, job: Job[SourceRecipe]) -> None:
    """Clean the source's raw folder; a source that was purged is refused."""
    from fer_ml.manifests.cleaning import clean_source
    from fer_ml.privacy.log import read_log

    source, home = job.asset.removeprefix("manifest/"), job.store.root.parent
    purges = read_log(home)
    whole = purges.source(source)
    if whole is not None:
        raise FerError(
            f"source {source} was purged on {whole[:10]}",
            where=home / PURGED_FILE,
            fix="take it out of the profile's sources",
        )
    clean_source(
        run,
        source=source,
        adapter=job.recipe.adapter,
        root=job.paths[f"raw/{source}"],
        pool_base=job.store.root,
        cache=job.store.probe_cache,
        since=job.store.looked_since,
        options=job.recipe.options,
        purged=purges.photos(),
    )


def judge(artifact: Artifact, store: Store, limits: Limits) -> list[Outcome]:
    """The report adds up, and what was quarantined is shown."""
    report = artifact.read_json("clean_report.json")["reports"][0]
    parts = report["rows_kept"] + report["rows_excluded"] + report["rows_quarantined"]
    left_out = ", ".join(f"{n} {rule}" for rule, n in sorted(report["quarantined"].items()))
    return [
        Outcome(
            "reconciled",
            report["rows_in"] == parts,
            parts,
            report["rows_in"],
            "rows kept + excluded + quarantined against rows listed by the publisher",
        ),
        Outcome(
            "quarantine_empty",
            report["rows_quarantined"] == 0,
            report["rows_quarantined"],
            0,
            left_out,
        ),
    ]


def stages(given: Given) -> list[Stage]:
    """One for each source."""
    return [
        Stage(
            asset=f"manifest/{source.name}",
            group="manifests",
            kinds=("csv", "polars"),
            describe=f"{source.title or source.name}, cleaned: one row a face with its label, "
            "publisher's split, box and content identity; what was left out stands in "
            "`quarantine.csv` and `excluded.csv` with its reason.",
            raw=source.name,
            recipe=partial(SourceRecipe.of, source.name),
            files=partial(files, source.name),
            build=build,
            gates=GATES,
            judge=judge,
            code_version="5",
            pool=DECODING,
        )
        for source in given.profile.sources
    ]
