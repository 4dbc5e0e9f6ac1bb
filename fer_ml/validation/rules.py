"""The rules on the rows of a manifest: pure functions of them and of the inspected images."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import polars as pl

from fer_ml.base.labels import CLASSES
from fer_ml.images.pixels import FORMATS
from fer_ml.manifests.schema import BOX, REQUIRED
from fer_ml.recipes.profile import SPLITS

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
class Evidence:
    """Rows of a manifest and the inspection of their images.

    ``rows`` has ``line``, all columns of the manifest, those of ``Probe.looks``, and ``near`` (the
    least id of the faces that are near-identical to this one). ``malformed`` and ``mistyped`` are
    the findings of ``read_table``, ``dialect`` features of the csv that other readers may misread.
    """

    rows: pl.DataFrame
    malformed: pl.DataFrame
    mistyped: pl.DataFrame
    dialect: tuple[str, ...] = ()

    @cached_property
    def repeated(self) -> pl.DataFrame:
        """Rows of faces that occur more than once."""
        return _repeated_faces(self)

    @cached_property
    def leaks(self) -> tuple[pl.DataFrame, "Findings"]:
        """Rows outside leaking groups and photos, and the findings about the leaking ones."""
        rows, findings = self.rows, []
        keys = [("group_id", "group"), ("photo", "photo")]
        if rows["group_id"].eq_missing(rows["photo"]).all():
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
    rows = e.rows.select("line", "image_path", "state", pl.col("detail").alias("why"))
    found = rows.filter(pl.col("state") == state, pl.col("image_path").is_not_null())
    return _findings(found, pl.col("why"))


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
    clash = (
        e.rows.select("line", "image_path", "photo", folded(e.rows).alias("folded"))
        .filter(pl.col("photo").is_not_null(), pl.col("folded").is_duplicated())
        .unique("image_path", keep="first", maintain_order=True)
        .filter(pl.col("photo").n_unique().over("folded") > 1)
        .with_columns(pl.col("image_path").first().over("folded").alias("other"))
        .filter(pl.col("image_path") != pl.col("other"))
    )
    return _findings(clash, pl.format("differs from {} only in case or accents", "other"))


def folded(rows: pl.DataFrame) -> pl.Expr:
    """Return the ``image_path`` that a file system sees which ignores case or composes accents."""
    path = pl.col("image_path").str.to_lowercase()
    if not rows["image_path"].str.len_bytes().eq(rows["image_path"].str.len_chars()).all():
        path = path.str.normalize("NFC")
    return path


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
    path = pl.col("image_path").str.to_lowercase()
    rows = e.rows.select("line", "image_path", "format", path.alias("path"))
    for name, allowed in FORMATS.items():
        fits = pl.any_horizontal(pl.col("path").str.ends_with(suffix) for suffix in allowed)
        odd = rows.filter((pl.col("format") == name) & ~fits)
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
    if rows["near"].eq_missing(rows["photo"]).all():
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
RULES: dict[str, Callable[[Evidence], Findings]] = {
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
#: Rules that compare rows of one photo, face, group or path; the others judge each row alone.
SHARED_RULES = ("case_collisions", "duplicates", "leakage", "near_leakage", "label_conflicts")
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
