"""``manifest/<source>``: one source, cleaned. One stage for each source of the profile."""

from dataclasses import dataclass
from functools import partial
from typing import Any

from fer_assets.stage import DECODING, Given, Limits, Recipe, Stage, Surroundings
from fer_ml.base.errors import FerError
from fer_ml.base.reading import as_text
from fer_ml.recipes.profile import Profile
from fer_ml.storage.artifact import PURGED_FILE, Artifact
from fer_ml.storage.gates import Gate, Outcome, at_most
from fer_ml.storage.job import Job
from fer_ml.storage.store import RunFolder, Store

GATES = (
    Gate(
        "adapter_fits",
        "the source is what its adapter takes it for: labels, splits and lines that it does not "
        "understand are slips (at most 2 rows, or 1 in 1,000, and rarer than any class), and each "
        "label of a publisher's table is on a row",
        "name the adapter that these files are for, correct them, or say what each label of this "
        'source means: labels = { "0" = "Angry", "7" = "contempt" }',
    ),
    Gate(
        "rows_usable",
        "at least one row can be used",
        "quarantine.csv and excluded.csv have each row with its reason; correct what the first "
        "ones name, or the source's adapter",
    ),
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


#: The files of the rows that were left out.
_PARTS = {"quarantined": "quarantine.csv", "excluded": "excluded.csv"}


#: The contents of each file in the run folder; ``<...>`` stands for a name.
HOLDS = {
    "<name>.csv": "the [manifest](data.md#the-manifest)",
    "<name>.parquet": "the same rows",
    "labels.csv": "`native_label` of the publisher, what it `means`, `rows`, `refused`, `where`",
    "thumbs.npy": "grey thumbs of the faces, uint8 [rows, 576], in the order of the csv",
    "excluded.csv": (
        "rows left out: `source`, `where`, `file`, `native_label`, `split`, `rule`, `detail`"
    ),
    "quarantine.csv": (
        "rows left out: `source`, `where`, `file`, `native_label`, `split`, `rule`, `detail`"
    ),
    "clean_report.json": (
        "`canonical`, `mode`, `apply`, `out_root`, `reports` (by source: `type` of the adapter, "
        "`dataset`, `source`, `output`, `source_root`, `splits`, `excluded` and `quarantined` by "
        "rule, `missing_images`, `rows_in`, `rows_kept`, `rows_excluded`, `rows_quarantined`, "
        "`notes`), `warnings`, `manifest`"
    ),
}


@dataclass(frozen=True)
class SourceRecipe(Recipe):
    """How a source is read: its adapter, and the adapter's settings."""

    adapter: str
    options: dict[str, str]
    labels: dict[str, str]

    @classmethod
    def of(cls, source: str, profile: Profile, partition: str | None) -> "SourceRecipe":
        """Return the part of the profile about ``source``."""
        profile_source = profile.source(source)
        return cls(profile_source.adapter, profile_source.options, profile_source.labels)


def files(source: str, around: Surroundings, partition: str | None) -> dict[str, Any]:
    """Return the purged photos of ``source``, which stay excluded; no key if there are none."""
    from fer_ml.privacy.log import read_log

    purged = sorted(read_log(around.settings.home).photos(source))
    return {"purged": purged} if purged else {}


def build(run: RunFolder, job: Job[SourceRecipe]) -> None:
    """Clean the source's raw folder; a purged source is refused."""
    from fer_ml.manifests.cleaning import clean_source
    from fer_ml.privacy.log import read_log

    source, home = job.asset.removeprefix("manifest/"), job.store.root.parent
    purges = read_log(home)
    whole = purges.source(source)
    if whole is not None:
        raise FerError(
            f"source {source} was purged on {whole[:10]}",
            code="source-purged",
            where=home / PURGED_FILE,
            fix="remove it from the sources of the profile",
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
        labels=job.recipe.labels,
        purged=purges.photos(),
    )


def judge(artifact: Artifact, store: Store, limits: Limits) -> list[Outcome]:
    """Judge whether the adapter fits the source, row counts reconcile, and quarantine is empty."""
    import polars as pl

    from fer_ml.manifests.curation import manifest_file
    from fer_ml.manifests.fitting import LABELS_FILE, LABELS_SCHEMA, misfits

    report = artifact.read_json("clean_report.json")["reports"][0]
    labels = pl.read_csv(as_text(artifact.file(LABELS_FILE)), glob=False, schema=LABELS_SCHEMA)
    labels = labels.with_columns(pl.col("native_label").fill_null(""))
    reasons = misfits(labels, report["quarantined"], report["rows_in"])
    fits = report["labels"]
    others = f"; these are those of {', '.join(fits['adapters'])}" if fits["adapters"] else ""
    rows = {name: _rows(artifact, file) for name, file in _PARTS.items()}
    rows["kept"] = _rows(artifact, manifest_file(artifact.record.asset))
    counts = {name: report[f"rows_{name}"] for name in rows}
    left_out = ", ".join(f"{n} {rule}" for rule, n in sorted(report["quarantined"].items()))
    return [
        at_most(
            "adapter_fits",
            len(reasons),
            0,
            f"adapter {report['type']}, which allows {fits['allowed']}{others}" if reasons else "",
            reasons,
        ),
        Outcome(
            "rows_usable",
            report["rows_kept"] > 0,
            report["rows_kept"],
            1,
            left_out,
            () if report["rows_kept"] else _first_left_out(artifact, *_PARTS.values()),
        ),
        Outcome(
            "reconciled",
            rows == counts and sum(rows.values()) == report["rows_in"],
            sum(rows.values()),
            report["rows_in"],
            "rows kept + excluded + quarantined against rows listed by the publisher"
            + ("" if rows == counts else f"; in the files {rows}, by clean_report.json {counts}"),
        ),
        at_most(
            "quarantine_empty",
            report["rows_quarantined"],
            0,
            left_out,
            _first_left_out(artifact, _PARTS["quarantined"]),
        ),
    ]


def _rows(artifact: Artifact, name: str) -> int:
    """Return the number of rows of a csv of the artifact."""
    import polars as pl

    return pl.read_csv(as_text(artifact.file(name)), glob=False, infer_schema=False).height


def _first_left_out(artifact: Artifact, *files: str) -> tuple[str, ...]:
    """Return the first excluded row of each reason, for at most five reasons."""
    import polars as pl

    left = [
        pl.read_csv(as_text(artifact.file(name)), glob=False, infer_schema=False) for name in files
    ]
    first = pl.concat(left).unique("rule", keep="first", maintain_order=True).head(5)
    rows = first.select("where", "rule", "detail").iter_rows()
    return tuple(f"{where}: {rule}: {detail}" for where, rule, detail in rows)


def stages(given: Given) -> list[Stage]:
    """Return one stage ``manifest/<source>`` for each source of the profile."""
    return [
        Stage(
            asset=f"manifest/{source.name}",
            group="manifests",
            kinds=("csv", "polars"),
            describe=f"{source.title or source.name}, cleaned: one row for each face with its "
            "label, publisher's split, box and content identity. `quarantine.csv` and "
            "`excluded.csv` hold the rows left out, with reasons. "
            "`labels.csv` has each label of the publisher, its meaning, and its number of rows.",
            raw=source.name,
            recipe=partial(SourceRecipe.of, source.name),
            files=partial(files, source.name),
            holds=HOLDS,
            build=build,
            gates=GATES,
            judge=judge,
            code_version="6",
            pool=DECODING,
        )
        for source in given.profile.sources
    ]
