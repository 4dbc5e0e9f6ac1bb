"""Clean one source: its listing becomes a manifest, a quarantine table and a report.

Every row of the listing ends in exactly one of three tables: kept, excluded (the publisher's label
is known and left out) or quarantined (the row is faulty). Originals are never changed. The kept
images are hard-linked (copied across disks) under one path base. Each name carries the hash of the
image's pixels, so names cannot collide.
"""

import logging
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import polars as pl

from fer_ml.base.errors import FerError
from fer_ml.base.files import discard, linked, move, temporary
from fer_ml.base.labels import CLASSES
from fer_ml.base.names import ODD, safe_name
from fer_ml.base.npz import read_npy
from fer_ml.base.reading import Refused, read_file, regular
from fer_ml.base.shards import map_shards
from fer_ml.base.visible import visible
from fer_ml.images.inspection import THUMB_SIZE
from fer_ml.manifests.fitting import LABELS_FILE, count_labels, what_fits
from fer_ml.manifests.inspection import PARALLEL_FROM, SHARD_FILES, Probe, how_checked, probe
from fer_ml.manifests.schema import BOX, SCHEMA, write_manifest
from fer_ml.sources import ATTRIBUTES, Adapter, get_adapter
from fer_ml.storage.store import RunFolder

log = logging.getLogger(__name__)

QUARANTINE_SCHEMA: dict[str, pl.DataType] = {
    "source": pl.String(),
    "where": pl.String(),
    "file": pl.String(),
    "native_label": pl.String(),
    "split": pl.String(),
    "rule": pl.String(),
    "detail": pl.String(),
}
#: The quarantine's rule for each state of a look that is not ok.
RULE_OF_STATE: dict[str, str] = {
    "missing": "missing path",
    "escapes": "bad path",
    "undecodable": "undecodable",
    "oversized": "oversized",
    "mode": "image mode",
}
THUMBS_FILE = "thumbs.npy"
#: Characters of a published name that a cleaned one keeps; file systems allow 255 bytes in all.
_STEM_CHARACTERS = 50


def clean_source(
    run: RunFolder,
    *,
    source: str,
    adapter: str,
    root: Path,
    pool_base: Path,
    cache: Path,
    since: float = 0.0,
    options: Mapping[str, str] | None = None,
    labels: Mapping[str, str] | None = None,
    purged: Mapping[str, str] | None = None,
) -> None:
    """Clean one source into ``run``; photos whose hash is in ``purged`` (with its time) stay out.

    ``labels`` maps the publisher's labels to classes, in place of the adapter's own table. Writes
    ``<source>.csv`` (with the publisher's splits, 'unassigned' where there are none),
    ``thumbs.npy`` (``[rows, 576] uint8``, the faces' grey thumbs), ``quarantine.csv``,
    ``excluded.csv``, ``labels.csv`` and ``clean_report.json``. The gates check later that the
    source fits its adapter.
    """
    reader = get_adapter(adapter)
    listing = reader.listing(root, labels, **(options or {})).with_row_index("row")
    refused = [_faults_of_listing(listing)]
    rows, repeated = _refuse_repetitions(listing.filter(pl.col("fault").is_null()), root)
    refused.append(repeated)
    excluded = _notes(_excluded(rows), source)
    rows = _place_inline(rows.filter(pl.col("excluded").is_null()), source, pool_base)
    looks = _look(rows, root, pool_base, cache, since, source)
    faces = pl.concat([rows, looks.looks()], how="horizontal").with_row_index("look")
    faces, kept_out = _keep_out(faces, purged or {})
    refused.append(kept_out)
    refused.append(_split_fault(faces.filter(_look_fault().is_not_null()), _look_fault()))
    kept = _name(faces.filter(_look_fault().is_null()), source).sort(
        "image_path", "face_id", "bbox_left", "row"
    )
    quarantined = pl.concat([_notes(part, source) for part in refused]).sort("row")
    copied = _place_files(kept, root, pool_base)
    manifest = _manifest(kept, source)
    write_manifest(manifest, run.path(f"{source}.csv"))
    _write_thumbs(run.path(THUMBS_FILE), looks, kept["look"].to_numpy())
    checked = how_checked(looks.how())
    del looks  # Its thumbs are mapped, and what is mapped cannot be deleted everywhere.
    _forget(kept_out, source, pool_base, cache)
    write_notes(run, "excluded.csv", excluded)
    write_notes(run, "quarantine.csv", quarantined)
    fits = _fits(run, reader, labels, root, listing)
    report = _report(source, adapter, listing.height, manifest, excluded, quarantined, fits)
    run.write_json(
        "clean_report.json",
        clean_report([report], {"rows": manifest.height, "manifest": f"{source}.csv"}),
    )
    run.summary.update(
        rows=manifest.height,
        rows_in=listing.height,
        excluded=excluded.height,
        quarantined=quarantined.height,
        images_copied=copied,
        checked=checked,
    )


def _fits(
    run: RunFolder,
    adapter: Adapter,
    labels: Mapping[str, str] | None,
    root: Path,
    listing: pl.DataFrame,
) -> dict[str, Any]:
    """Write ``labels.csv``; return the part of the report on labels."""
    table = adapter.table(labels)
    given = count_labels(listing, table)
    run.write_text(LABELS_FILE, given.write_csv())
    return what_fits(adapter, table, root, given)


def _excluded(listing: pl.DataFrame) -> pl.DataFrame:
    return listing.filter(pl.col("excluded").is_not_null()).with_columns(
        pl.col("excluded").alias("rule"), pl.col("native_label").alias("detail")
    )


def _report(
    source: str,
    adapter: str,
    rows_in: int,
    manifest: pl.DataFrame,
    excluded: pl.DataFrame,
    quarantined: pl.DataFrame,
    fits: dict[str, Any],
) -> dict[str, Any]:
    """Return the entry of ``clean_report.json`` for one source."""
    by_rule = dict(quarantined.group_by("rule").len().sort("rule").iter_rows())
    return {
        "type": adapter,
        "dataset": source,
        "source": source,
        "output": f"cleaned/{source}",
        # Not the folder itself: the hash would then depend on where the data lies.
        "source_root": f"raw/{source}",
        "splits": _counts(manifest),
        "excluded": dict(excluded.group_by("rule").len().sort("rule").iter_rows()),
        "missing_images": by_rule.get("missing path", 0),
        "quarantined": by_rule,
        "rows_in": rows_in,
        "rows_kept": manifest.height,
        "rows_excluded": excluded.height,
        "rows_quarantined": quarantined.height,
        "labels": fits,
        "notes": [],
    }


def clean_report(reports: list[dict[str, Any]], manifest: dict[str, Any]) -> dict[str, Any]:
    """Return ``clean_report.json`` with the first pipeline's keys, for one source or for all."""
    return {
        "schema_version": 1,
        "canonical": list(CLASSES),
        "mode": "link",
        "apply": True,
        "out_root": "cleaned",
        "reports": reports,
        "warnings": [],
        "manifest": manifest,
    }


def write_notes(run: RunFolder, name: str, notes: pl.DataFrame) -> None:
    """Write rows that were left out, with reasons, as a CSV of ``QUARANTINE_SCHEMA``."""
    with run.path(name).open("wb") as file:
        file.write(pl.DataFrame(schema=QUARANTINE_SCHEMA).write_csv().encode())
        append_notes(file, notes)


def append_notes(file: BinaryIO, notes: pl.DataFrame) -> None:
    """Write such rows without the header; hidden characters of texts are made ``visible``."""
    texts = notes.select(list(QUARANTINE_SCHEMA))
    odd = pl.all().str.contains(r"[\p{C}\p{Zl}\p{Zp}]")
    shown = pl.all().map_elements(visible, return_dtype=pl.String, skip_nulls=True)
    if texts.select(pl.any_horizontal(odd.any())).item():
        texts = texts.select(shown)
    file.write(texts.write_csv(include_header=False).encode())


def read_thumbs(file: Path) -> np.ndarray:
    """Open ``thumbs.npy`` as ``[rows, 576] uint8``, memory-mapped."""
    return read_npy(file)


def _notes(rows: pl.DataFrame, source: str) -> pl.DataFrame:
    return rows.with_columns(pl.lit(source).alias("source")).select("row", *QUARANTINE_SCHEMA)


def _split_fault(rows: pl.DataFrame, fault: pl.Expr) -> pl.DataFrame:
    """Split ``kind: detail`` into the columns ``rule`` and ``detail``."""
    parts = fault.str.splitn(": ", 2)
    return rows.with_columns(
        parts.struct.field("field_0").alias("rule"), parts.struct.field("field_1").alias("detail")
    )


def _faults_of_listing(listing: pl.DataFrame) -> pl.DataFrame:
    return _split_fault(listing.filter(pl.col("fault").is_not_null()), pl.col("fault"))


#: What a publisher says of a face that decides something.
_STATED = ("label", "split", "confidence", "votes", "weight", "neg_label", *ATTRIBUTES)


def _refuse_repetitions(rows: pl.DataFrame, root: Path) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Split off rows that list one face of one file twice, which would be counted twice.

    If such lines contradict each other, all of them are refused.
    """
    face = ["place", *BOX]
    rows = rows.with_columns(_places(rows["file"], root).alias("place"))
    again = rows.filter(pl.col("place").is_not_null() & pl.struct(face).is_duplicated())
    stated = again.with_columns(
        pl.coalesce("label", "excluded").alias("label"),
        pl.col("votes").list.eval(pl.element().cast(pl.String)).list.join(";"),
    )
    lines = stated.group_by(face, maintain_order=True).agg(
        pl.col("where").first().alias("first"),
        pl.col("where").head(5).str.join(", ").alias("lines"),
        *map(_differing, _STATED),
    )
    says = pl.concat_str(_STATED, separator="; ", ignore_nulls=True).alias("says")
    repeats = again.join(
        lines.select(*face, "first", "lines", says),
        on=face,
        nulls_equal=True,
        maintain_order="left",
    )
    conflict = pl.col("says") != ""
    repeats = repeats.filter(conflict | (pl.col("where") != pl.col("first"))).with_columns(
        pl.when(conflict)
        .then(pl.lit("conflicting rows"))
        .otherwise(pl.lit("duplicate row"))
        .alias("rule"),
        pl.when(conflict)
        .then(pl.format("{} say of {}: {}", "lines", "file", "says"))
        .otherwise(pl.format("{} is listed before, with the same box: {}", "file", "first"))
        .alias("detail"),
    )
    return rows.filter(~pl.col("row").is_in(repeats["row"].implode())).drop("place"), repeats


def _differing(name: str) -> pl.Expr:
    """Return the values of a column where a group has several."""
    values = pl.col(name).cast(pl.String).fill_null("none").unique(maintain_order=True)
    statement = pl.format(f"{name} {{}}", values.str.join(", "))
    return pl.when(pl.col(name).n_unique() > 1).then(statement).alias(name)


def _places(files: pl.Series, root: Path) -> pl.Series:
    """Return one name per file where the disk treats names of other case or accents as one."""
    names = files.unique().drop_nulls().sort()
    folded = names.str.normalize("NFC").str.to_lowercase()
    alike = pl.DataFrame({"name": names, "folded": folded}).filter(folded.is_duplicated())
    one: dict[str, str] = {}
    for first, *others in alike.group_by("folded").agg("name")["name"].to_list():
        one |= {name: first for name in others if _same(root / first, root / name)}
    return files.replace(one)


def _same(a: Path, b: Path) -> bool:
    try:
        return a.samefile(b)
    except OSError:
        return False


def _place_inline(rows: pl.DataFrame, source: str, base: Path) -> pl.DataFrame:
    """Write pixels stored in a table to files of their own; ``inline_path`` names them."""
    if rows["inline_png"].null_count() == rows.height:
        return rows.drop("inline_png").with_columns(pl.lit(None, pl.String).alias("inline_path"))
    paths: list[str | None] = []
    made: set[str] = set()
    for where, split, label, data in rows.select(
        "where", "split", "label", "inline_png"
    ).iter_rows():
        if data is None:
            paths.append(None)
            continue
        folder = f"cleaned/{source}/{split}/{label}"
        if folder not in made:
            (base / folder).mkdir(parents=True, exist_ok=True)
            made.add(folder)
        path = f"{folder}/{safe_name(f'{where}.png')}"
        target = base / path
        if not _holds(target, data):
            partial = temporary(target)
            partial.write_bytes(data)
            move(partial, target)
        paths.append(path)
    return rows.drop("inline_png").with_columns(pl.Series("inline_path", paths, pl.String))


def _holds(path: Path, data: bytes) -> bool:
    try:
        return read_file(path, len(data)) == data
    except (OSError, Refused):
        return False


def _look(
    rows: pl.DataFrame, root: Path, base: Path, cache: Path, since: float, source: str
) -> Probe:
    inline = rows["inline_path"].is_not_null()
    if inline.any() and not inline.all():
        raise FerError(
            f"source {source} has some rows as image files and some as pixels",
            code="mixed-pixel-storage",
            fix="give all rows of the source in one way",
        )
    names = rows.with_columns(pl.coalesce("inline_path", "file").alias("image_path"))
    where, label = base if inline.any() else root, f"clean {source}"
    return probe(lambda: [names], where, cache, rows=names.height, since=since, label=label)


def _keep_out(faces: pl.DataFrame, purged: Mapping[str, str]) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return the rows without those of purged photos, and these rows with their reason."""
    is_purged = pl.col("photo").is_in(list(purged)).fill_null(False)
    at = pl.col("photo").replace_strict(purged, default="", return_dtype=pl.String)
    out = faces.filter(is_purged).with_columns(
        pl.lit("purged").alias("rule"), pl.format("purged on {}", at.str.head(10)).alias("detail")
    )
    return faces.filter(~is_purged), out


def _forget(kept_out: pl.DataFrame, source: str, base: Path, cache: Path) -> None:
    """Remove the cached inspection of purged photos, which are still in the raw folder."""
    if kept_out.is_empty():
        return
    for path in kept_out["inline_path"].drop_nulls():
        (base / path).unlink(missing_ok=True)
    # It holds their thumbs too, and can be made again.
    if cache.is_dir():
        shutil.rmtree(cache)
    log.warning(
        "source %s: %d rows of purged photos are kept out; remove them from the raw folder, since "
        "every look starts anew until then",
        source,
        kept_out.height,
    )


def _look_fault() -> pl.Expr:
    """Return an expression for the fault of a row's image, as ``rule: detail``, or null."""
    name = pl.coalesce("file", "inline_path")
    left, top, right, bottom = (pl.col(edge) for edge in BOX)
    width, height = pl.col("image_width"), pl.col("image_height")
    inside = (left >= 0) & (top >= 0) & (right <= width) & (bottom <= height)
    has_area = (left < right) & (top < bottom)
    box = pl.format("({}, {}, {}, {})", *BOX)
    size = pl.format("{}x{}", "image_width", "image_height")
    return (
        # In a name such a character would break lines of the manifest, or of a terminal.
        pl.when(pl.col("file").str.contains(r"[\x00-\x1f\x7f]"))
        .then(pl.format("bad path: control character in {}", pl.col("file").str.escape_regex()))
        .when(pl.col("state") != "ok")
        .then(
            pl.format(
                "{}: {}: {}",
                pl.col("state").cast(pl.String).replace(RULE_OF_STATE),
                name,
                pl.col("detail"),
            )
        )
        .when(left.is_not_null() & ~(inside & has_area))
        .then(pl.format("bad box: (left, top, right, bottom) = {} in a photo of {} px", box, size))
    )


def _name(rows: pl.DataFrame, source: str) -> pl.DataFrame:
    """Give each row an ``image_path`` in the cleaned tree that is valid on every file system."""
    published = pl.col("file").str.split("/").list.last().str.normalize("NFC")
    suffix = published.str.extract(r"(\.[^.]{1,19})$").fill_null("")
    stem = published.str.strip_suffix(suffix).str.head(_STEM_CHARACTERS)
    folder = (
        pl.when(pl.col("bbox_left").is_null())
        .then(pl.format("cleaned/{}/{}/{}", pl.lit(source), "split", "label"))
        .otherwise(pl.format("cleaned/{}/photos", pl.lit(source)))
    )
    name = pl.format("{}__{}{}", stem, pl.col("photo").str.head(10), suffix.str.to_lowercase())
    rows = rows.with_columns(name.alias("name"))
    odd = rows["name"].unique().drop_nulls()
    odd = odd.filter(odd.str.contains(ODD))
    path = pl.format("{}/{}", folder, pl.col("name").replace(odd, [safe_name(n) for n in odd]))
    rows = rows.with_columns(pl.coalesce("inline_path", path).alias("image_path")).drop("name")
    # Two names that differ in case alone are one file for some systems; it has the same pixels.
    one = pl.col("image_path").min().over(pl.col("image_path").str.to_lowercase())
    return rows.with_columns(one)


def _place_files(kept: pl.DataFrame, root: Path, base: Path) -> int:
    """Link the published files into the cleaned tree; return how many had to be copied."""
    files = kept.filter(pl.col("inline_path").is_null()).unique(
        "image_path", keep="first", maintain_order=True
    )
    folders = files["image_path"].str.replace(r"/[^/]*$", "").unique()
    for folder in folders:
        (base / folder).mkdir(parents=True, exist_ok=True)
    shards = [
        (str(root), str(base), part["file"].to_list(), part["image_path"].to_list())
        for part in files.iter_slices(SHARD_FILES)
    ]
    return sum(map_shards(_link_all, shards, workers=1 if files.height < PARALLEL_FROM else None))


def _link_all(shard: tuple[str, str, list[str], list[str]]) -> int:
    root, base, files, names = shard
    return sum(
        _link(f"{root}/{file}", f"{base}/{name}") for file, name in zip(files, names, strict=True)
    )


def _link(original: str, target: str) -> bool:
    """Make ``target`` a hard link to ``original``, or else a copy; return whether it is a copy."""
    original = os.path.realpath(original) if os.path.islink(original) else original  # noqa: PTH114
    origin = os.stat(original)  # noqa: PTH116 - a Path for each of 100,000 files is slow
    try:
        present = os.lstat(target)
        # Some file systems number no files: there only a copy is known.
        if origin.st_ino and (present.st_dev, present.st_ino) == (origin.st_dev, origin.st_ino):
            return False
        # A copy keeps the time of its original.
        apart = present.st_dev != origin.st_dev or not origin.st_ino
        if apart and (present.st_size, present.st_mtime_ns) == (origin.st_size, origin.st_mtime_ns):
            return True
    except FileNotFoundError:
        pass
    partial = temporary(Path(target))
    copied = not linked(original, partial)
    if copied:
        shutil.copy2(regular(original), partial)
    move(partial, Path(target))
    # rename() of two names of one file does nothing and leaves the temporary name behind.
    discard(partial)
    return copied


def _manifest(kept: pl.DataFrame, source: str) -> pl.DataFrame:
    # Ten annotators give few different votes: each is written out once.
    votes = kept.select(pl.col("votes").unique()).with_columns(
        pl.col("votes")
        # Whole numbers without a decimal point, as publishers write them.
        .list.eval(pl.element().cast(pl.String).str.replace(r"\.0$", ""))
        .list.join(";")
        .alias("text")
    )
    kept = kept.join(votes, on="votes", how="left", nulls_equal=True, maintain_order="left")
    return kept.with_columns(
        pl.lit(source).alias("source"),
        pl.coalesce("file", "where").alias("orig_image"),
        pl.when(pl.col("bbox_left").is_not_null()).then(pl.lit("photo")).alias("bbox_frame"),
        pl.col("face").alias("sample_id"),
        pl.col("photo").alias("group_id"),
        pl.col("text").alias("votes"),
        pl.col("image_width").alias("width"),
        pl.col("image_height").alias("height"),
        pl.col("brightness").round(3),
        pl.lit(None, pl.String).alias("twin_in"),
    ).select(pl.col(name).cast(dtype) for name, dtype in SCHEMA.items())


def _write_thumbs(path: Path, looks: Probe, rows: np.ndarray) -> None:
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(
            file, {"descr": "|u1", "fortran_order": False, "shape": (len(rows), THUMB_SIZE)}
        )
        for start in range(0, len(rows), 20_000):
            file.write(looks.thumbs(rows[start : start + 20_000]).tobytes())


def _counts(manifest: pl.DataFrame) -> dict[str, dict[str, int]]:
    counts: dict[str, dict[str, int]] = {}
    for split, label, n in (
        manifest.group_by("split", "label").len().sort("split", "label").iter_rows()
    ):
        counts.setdefault(split, {})[label] = n
    return counts
