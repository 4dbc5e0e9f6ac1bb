"""The rules of a manifest: pure functions of its rows and of the inspected images."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

import polars as pl

from fer_ml.base.labels import CLASSES
from fer_ml.images.pixels import FORMATS
from fer_ml.manifests.schema import BOX, REQUIRED
from fer_ml.recipes.profile import SPLITS
from fer_ml.storage.gates import Outcome, at_most, not_applicable
from fer_ml.validation.gates import manifest_gates

MAX_IMBALANCE = 100.0
#: Largest change against the last accepted manifest that is no drift.
DRIFT_LIMITS: dict[str, float] = {
    "rows": 0.1,
    "class shares": 0.05,
    "brightness": 5.0,
    "width": 0.1,
}
FINDING_COLUMNS = ("line", "image_path", "detail")
#: All findings of a manifest as one table.
FINDINGS_SCHEMA: dict[str, pl.DataType] = {
    "rule": pl.String(),
    "line": pl.Int64(),
    "image_path": pl.String(),
    "detail": pl.String(),
}

Findings = pl.DataFrame


@dataclass(frozen=True)
class Reference:
    """The data a manifest is compared with; ``None`` where there is nothing to compare with.

    ``sources`` should have rows. ``lost`` counts rows that the inputs and recipe give and the
    manifest lacks, or the other way round; it is infinite when an input is gone. ``accepted`` is
    the previous manifest that passed its gates.
    """

    sources: tuple[str, ...] | None = None
    lost: float | None = None
    accepted: pl.DataFrame | None = None


@dataclass(frozen=True)
class Evidence:
    """A manifest and the inspection of its images.

    ``rows`` has ``line``, all columns of the manifest, those of ``Probe.looks``, and ``near`` (the
    least id of the faces that are near-identical to this one). ``malformed`` and ``mistyped`` are
    the findings of ``read_table``, ``dialect`` features of the csv that other readers may misread.
    """

    rows: pl.DataFrame
    malformed: pl.DataFrame
    mistyped: pl.DataFrame
    dialect: tuple[str, ...] = ()
    reference: Reference = Reference()

    @cached_property
    def repeated(self) -> pl.DataFrame:
        """Rows of faces that occur more than once."""
        return _repeated_faces(self)

    @cached_property
    def leaks(self) -> tuple[pl.DataFrame, "Findings"]:
        """Rows outside leaking groups and photos, and the findings about the leaking ones."""
        rows, findings = self.rows, []
        keys = [("group_id", "group"), ("photo", "photo")]
        if (rows["group_id"] == rows["photo"]).all():
            keys.pop()  # Each photo is a group of its own: one search says all.
        for key, what in keys:
            leaks = _in_several_splits(rows, key, what)
            findings.append(leaks)
            if not leaks.is_empty():
                bad = rows.filter(pl.col("line").is_in(leaks["line"].implode()))[key]
                rows = rows.filter(~pl.col(key).is_in(bad.implode()).fill_null(False))
        return rows, pl.concat(findings).sort("line")


def _findings(rows: pl.DataFrame, detail: pl.Expr) -> Findings:
    """Return one finding for each row where ``detail`` is not null."""
    return rows.select("line", "image_path", detail.alias("detail")).drop_nulls("detail")


def malformed_rows(e: Evidence) -> Findings:
    """Find lines whose cells do not match the header."""
    return e.malformed.select("line", pl.lit(None, pl.String).alias("image_path"), pl.col("detail"))


def csv_dialect(e: Evidence) -> Findings:
    """Find features of the csv that other readers may misread."""
    return pl.DataFrame(
        {"line": [1] * len(e.dialect), "image_path": None, "detail": list(e.dialect)},
        schema={"line": pl.Int64, "image_path": pl.String, "detail": pl.String},
    )


def schema(e: Evidence) -> Findings:
    """Find cells of another type than the column's, and empty cells of required columns."""
    empty = [
        _findings(e.rows, pl.when(pl.col(name).is_null()).then(pl.lit(f"{name} is empty")))
        for name in REQUIRED
    ]
    mistyped = e.mistyped.join(e.rows.select("line", "image_path"), on="line", how="left")
    # A cell of another type is null now, and one finding is enough.
    cells = mistyped.select("line", pl.col("detail").str.extract(r"^(\w+):").alias("column"))
    blank = pl.concat(empty).with_columns(
        pl.col("detail").str.strip_suffix(" is empty").alias("column")
    )
    blank = blank.join(cells, on=["line", "column"], how="anti").drop("column")
    return pl.concat([mistyped.select(FINDING_COLUMNS), blank]).sort("line", maintain_order=True)


def _outside(e: Evidence, column: str, allowed: tuple[str, ...]) -> Findings:
    wrong = ~pl.col(column).is_in(list(allowed))
    return _findings(
        e.rows, pl.when(wrong).then(pl.format(f"{column} '{{}}'", pl.col(column).str.head(40)))
    )


def bad_labels(e: Evidence) -> Findings:
    """Find labels outside ``CLASSES``."""
    return _outside(e, "label", CLASSES)


def bad_splits(e: Evidence) -> Findings:
    """Find splits outside ``SPLITS``."""
    return _outside(e, "split", SPLITS)


def _in_state(e: Evidence, state: str) -> Findings:
    return _findings(
        e.rows.filter(pl.col("image_path").is_not_null()),
        pl.when(pl.col("state") == state).then(pl.col("detail")),
    )


def escaping_paths(e: Evidence) -> Findings:
    """Find paths that lead out of the base folder."""
    return _in_state(e, "escapes")


def missing_paths(e: Evidence) -> Findings:
    """Find paths without a file."""
    return _in_state(e, "missing")


def case_collisions(e: Evidence) -> Findings:
    """Find paths with different pixels that differ only in case or accents.

    A file system that ignores case, or composes accents, would treat them as one.
    """
    folded = pl.col("image_path").str.to_lowercase()
    if not e.rows["image_path"].str.len_bytes().eq(e.rows["image_path"].str.len_chars()).all():
        folded = folded.str.normalize("NFC")
    clash = (
        e.rows.select("line", "image_path", "photo", folded.alias("folded"))
        .filter(pl.col("photo").is_not_null(), pl.col("folded").is_duplicated())
        .unique("image_path", keep="first", maintain_order=True)
        .filter(pl.col("photo").n_unique().over("folded") > 1)
        .with_columns(pl.col("image_path").first().over("folded").alias("other"))
        .filter(pl.col("image_path") != pl.col("other"))
    )
    return _findings(clash, pl.format("differs from {} only in case or accents", "other"))


def undecodable(e: Evidence) -> Findings:
    """Find images that cannot be decoded."""
    return _in_state(e, "undecodable")


def oversized(e: Evidence) -> Findings:
    """Find images with more pixels than the limit for decoding."""
    return _in_state(e, "oversized")


def image_modes(e: Evidence) -> Findings:
    """Find images whose pixels are not 8-bit grey or RGB."""
    return _in_state(e, "mode")


def suffixes(e: Evidence) -> Findings:
    """Find files whose suffix does not match their format."""
    findings = []
    for name, allowed in FORMATS.items():
        path = pl.col("image_path").str.to_lowercase()
        fits = pl.any_horizontal(path.str.ends_with(suffix) for suffix in allowed)
        odd = e.rows.filter(pl.col("format") == name).filter(~fits)
        findings.append(_findings(odd, pl.lit(f"is a {name} file")))
    return pl.concat(findings).sort("line")


def image_sizes(e: Evidence) -> Findings:
    """Find rows whose width and height are not those of the image."""
    differs = (pl.col("width") != pl.col("image_width")) | (
        pl.col("height") != pl.col("image_height")
    )
    return _findings(
        e.rows,
        pl.when(differs & (pl.col("state") == "ok")).then(
            pl.format("{}x{} px, not {}x{}", "image_width", "image_height", "width", "height")
        ),
    )


def changed_pixels(e: Evidence) -> Findings:
    """Find rows whose ``sample_id`` is not the hash of the pixels read."""
    return _findings(
        e.rows,
        pl.when(pl.col("sample_id") != pl.col("face")).then(
            pl.lit("its pixels are not those of the manifest")
        ),
    )


def bad_boxes(e: Evidence) -> Findings:
    """Find boxes that are incomplete, without area or outside their image."""
    left, top, right, bottom = (pl.col(name) for name in BOX)
    given = pl.any_horizontal(pl.col(name).is_not_null() for name in BOX)
    box = pl.format(
        "box ({}, {}, {}, {})", *(pl.col(n).cast(pl.String).fill_null("-") for n in BOX)
    )
    width, height = pl.col("image_width"), pl.col("image_height")
    size = pl.format("{}x{} px", "image_width", "image_height")
    outside = (left < 0) | (top < 0) | (right > width) | (bottom > height)
    return _findings(
        e.rows.filter(given, pl.col("state") == "ok"),
        pl.when(pl.any_horizontal(pl.col(name).is_null() for name in BOX))
        .then(pl.format("{} has an empty edge", box))
        .when((left >= right) | (top >= bottom))
        .then(pl.format("{} has no area: edges are swapped", box))
        .when(outside)
        .then(pl.format("{} lies outside its image of {}", box, size))
        .when(pl.col("bbox_frame") != "photo")
        .then(pl.format("{} refers to frame '{}', not to this image ('photo')", box, "bbox_frame")),
    )


def _repeated_faces(e: Evidence) -> pl.DataFrame:
    """Return rows of faces that occur more than once, ``face`` as a number.

    A face is identified by its pixels where they were read, else by the manifest.
    """
    face = pl.coalesce("face", "sample_id").cast(pl.Categorical).to_physical().alias("face")
    rows = e.rows.select("line", "image_path", "source", "label", face)
    return rows.filter(pl.col("face").is_not_null(), pl.col("face").is_duplicated())


def duplicates(e: Evidence) -> Findings:
    """Find faces that one source lists more than once."""
    rows = e.repeated
    again = rows.filter(~pl.struct("source", "face").is_first_distinct())
    first = rows.unique(["source", "face"], keep="first").rename({"image_path": "first"})
    repeats = again.join(first, on=["source", "face"], nulls_equal=True).sort("line")
    return _findings(repeats, pl.format("the same face as {} of this source", "first"))


def _in_several_splits(rows: pl.DataFrame, key: str, what: str) -> Findings:
    """Return one finding for each value of ``key`` in several splits, at its first row."""
    placed = rows.filter(pl.col(key).is_not_null(), pl.col("split").is_in(list(SPLITS)))
    code = pl.col(key).cast(pl.Categorical).to_physical().alias("code")
    bit = pl.lit(1).cast(pl.UInt8) * (2 ** pl.col("split").replace_strict(_SPLIT_NUMBERS))
    masks = (
        placed.select(code, bit.cast(pl.UInt8).alias("bit"), "line")
        .group_by("code")
        .agg(pl.col("bit").bitwise_or(), pl.col("line").min())
    )
    several = masks.filter(pl.col("bit").bitwise_count_ones() > 1).select("line", "bit")
    names = {
        bits: ", ".join(sorted(split for split, n in _SPLIT_NUMBERS.items() if bits >> n & 1))
        for bits in range(1 << len(SPLITS))
    }
    leaks = several.join(rows.select("line", "image_path", key), on="line").sort("line")
    splits = pl.col("bit").replace_strict(names, return_dtype=pl.String)
    return _findings(leaks, pl.format("{} {} in {}", pl.lit(what), key, splits))


_SPLIT_NUMBERS = {split: number for number, split in enumerate(SPLITS)}


def leakage(e: Evidence) -> Findings:
    """Find groups and photos with rows in several splits."""
    return e.leaks[1]


def near_leakage(e: Evidence) -> Findings:
    """Find near-identical faces in several splits, besides those that ``leakage`` finds."""
    rows = e.leaks[0]
    if (rows["near"] == rows["photo"]).all():
        rows = rows.clear()  # No face is near to another one, and photos have been searched.
    return _in_several_splits(rows, "near", "near-identical faces")


def label_conflicts(e: Evidence) -> Findings:
    """Find faces that have more than one label."""
    conflicts = (
        e.repeated.group_by("face")
        .agg(pl.col("line").min(), pl.col("label").drop_nulls().unique().sort())
        .filter(pl.col("label").list.len() > 1)
        .join(e.rows.select("line", "image_path"), on="line")
        .sort("line")
    )
    return _findings(conflicts, pl.col("label").list.join(" and "))


#: Rules on rows, each with all that it found. Those on groups (leakage, conflicts) find each once.
ROW_RULES: dict[str, Callable[[Evidence], Findings]] = {
    rule.__name__: rule
    for rule in (
        malformed_rows,
        csv_dialect,
        schema,
        bad_labels,
        bad_splits,
        escaping_paths,
        missing_paths,
        case_collisions,
        undecodable,
        oversized,
        image_modes,
        suffixes,
        image_sizes,
        changed_pixels,
        bad_boxes,
        duplicates,
        leakage,
        near_leakage,
        label_conflicts,
    )
}
#: A row found by one of these cannot be used, whatever the other rows are.
ROW_FAULTS = (
    "malformed_rows",
    "schema",
    "bad_labels",
    "bad_splits",
    "escaping_paths",
    "missing_paths",
    "undecodable",
    "oversized",
    "image_modes",
    "image_sizes",
    "changed_pixels",
    "bad_boxes",
)


def class_coverage(e: Evidence) -> Outcome:
    """Count the classes that are missing from a split of the manifest."""
    pairs = set(e.rows.select("split", "label").unique().iter_rows())
    absent = [
        f"{split}: no {label}"
        for split in SPLITS
        if any(split == s for s, _ in pairs)
        for label in CLASSES
        if (split, label) not in pairs
    ]
    return at_most("class_coverage", len(absent), 0, examples=absent)


def imbalance(e: Evidence) -> Outcome:
    """Compute the ratio of train rows of the largest class to the smallest present one."""
    sizes = e.rows.filter(pl.col("split") == "train", pl.col("label").is_in(list(CLASSES)))
    counts = sizes.group_by("label").len().sort("len", "label")
    if counts.is_empty():
        return not_applicable("imbalance", "no training rows")
    (small, few), *_, (large, most) = [*counts.iter_rows(), *counts.iter_rows()]
    return at_most(
        "imbalance", round(most / few, 2), MAX_IMBALANCE, f"{most:,} {large}, {few:,} {small}"
    )


def sources_present(e: Evidence) -> Outcome:
    """Count the sources that the recipe names and that have no row."""
    if e.reference.sources is None:
        return not_applicable("sources_present", "no recipe names sources")
    sources = set(e.rows["source"].unique())
    absent = [name for name in e.reference.sources if name not in sources]
    return at_most("sources_present", len(absent), 0, examples=absent)


def reconciled(e: Evidence) -> Outcome:
    """Count the rows lost or added against the inputs and the recipe."""
    if e.reference.lost is None:
        return not_applicable("reconciled", "a file alone has no inputs to compare with")
    gone = "" if math.isfinite(e.reference.lost) else "what it was made from is no longer here"
    return at_most("reconciled", e.reference.lost, 0, gone)


def drift(e: Evidence) -> Outcome:
    """Count the properties that moved beyond ``DRIFT_LIMITS`` since the last accepted manifest."""
    if e.reference.accepted is None:
        return not_applicable("drift", "no accepted manifest before this one")
    old, new = _profile(e.reference.accepted), _profile(e.rows)
    moved = {
        "rows": abs(new["rows"] - old["rows"]) / old["rows"],
        "class shares": sum(abs(new[label] - old[label]) for label in CLASSES) / 2,
        "brightness": abs(new["brightness"] - old["brightness"]),
        "width": abs(new["width"] - old["width"]) / max(old["width"], 1),
    }
    over = [
        f"{name} by {moved[name]:.3f} (limit {limit})"
        for name, limit in DRIFT_LIMITS.items()
        if moved[name] > limit
    ]
    return at_most("drift", len(over), 0, examples=over)


def _profile(rows: pl.DataFrame) -> dict[str, float]:
    shares = dict(rows.group_by("label").len().iter_rows())
    brightness, width = rows.select(
        pl.col("brightness").mean().fill_null(0.0), pl.col("width").mean().fill_null(0.0)
    ).row(0)
    return {
        "rows": rows.height,
        "brightness": float(brightness),
        "width": float(width),
        **{label: shares.get(label, 0) / max(rows.height, 1) for label in CLASSES},
    }


MEASURES: dict[str, Callable[[Evidence], Outcome]] = {
    rule.__name__: rule for rule in (class_coverage, imbalance, sources_present, reconciled, drift)
}


@dataclass(frozen=True)
class Verdict:
    """The outcomes of all rules in the order of the gates, and every finding.

    ``findings`` has ``rule``, ``line``, ``image_path`` and ``detail``.
    """

    outcomes: tuple[Outcome, ...]
    findings: pl.DataFrame

    @property
    def faulty_lines(self) -> int:
        """The number of lines that cannot be used as they are."""
        return self.findings.filter(pl.col("rule").is_in(list(ROW_FAULTS)))["line"].n_unique()


def judge_manifest(evidence: Evidence, asset: str) -> Verdict:
    """Judge one manifest by all gates of ``asset``. Each value counts findings."""
    by_rule: Mapping[str, Findings] = {name: rule(evidence) for name, rule in ROW_RULES.items()}
    outcomes = []
    for gate in manifest_gates(asset):
        if gate.rule in by_rule:
            rows = by_rule[gate.rule]
            outcomes.append(at_most(gate.rule, rows.height, 0, examples=_examples(rows)))
        else:
            outcomes.append(MEASURES[gate.rule](evidence))
    findings = pl.concat(
        [
            rows.select(pl.lit(name).alias("rule"), *FINDING_COLUMNS)
            for name, rows in by_rule.items()
        ]
    )
    return Verdict(tuple(outcomes), findings)


def _examples(findings: Findings) -> list[str]:
    return [
        f"line {line}: {detail}" if path is None else f"line {line}: {path}: {detail}"
        for line, path, detail in findings.head(5).iter_rows()
    ]


def count_labels(frame: pl.DataFrame) -> dict[str, int]:
    """Return ``{"source|split|label": n}``, with the first pipeline's key."""
    keys = (pl.col(name).fill_null("None") for name in ("source", "split", "label"))
    counts = frame.select(pl.concat_str(list(keys), separator="|").alias("key"))
    return dict(counts.group_by("key").len().sort("key").iter_rows())
