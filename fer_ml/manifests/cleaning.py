"""Cleaning one source: its listing becomes a manifest, a quarantine table and a report.

Every row of the listing ends in exactly one of three tables: kept, excluded (the publisher's label
is understood and left out) or quarantined (something is wrong with the row). Originals are never
touched; the kept images are hard-linked (copied across disks) under one path base, each name
carrying the hash of the file's bytes, so that names cannot collide.
"""

import errno
import hashlib
import os
import uuid
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import polars as pl
from tqdm import tqdm

from fer_ml.errors import FerError
from fer_ml.images import Box, decode
from fer_ml.job import Job
from fer_ml.labels import CLASSES
from fer_ml.manifests.identity import photo_hash, sample_hash
from fer_ml.manifests.schema import SCHEMA, write_manifest
from fer_ml.sources import get_adapter
from fer_ml.store import RunFolder

QUARANTINE_SCHEMA: dict[str, pl.DataType] = {
    "source": pl.String(),
    "where": pl.String(),
    "file": pl.String(),
    "native_label": pl.String(),
    "split": pl.String(),
    "rule": pl.String(),
    "detail": pl.String(),
}


class Rejected(Exception):
    """A row that goes to quarantine: which rule, and what was found."""

    def __init__(self, rule: str, detail: str) -> None:
        super().__init__(f"{rule}: {detail}")
        self.rule = rule
        self.detail = detail


@dataclass(frozen=True)
class Pool:
    """The cleaned tree below ``base``; ``image_path`` in manifests is relative to ``base``."""

    base: Path

    def add(self, folder: str, name: str, data: bytes, original: Path | None) -> str:
        """Link (or write) an image into ``cleaned/<folder>``; returns its ``image_path``."""
        suffix = PurePosixPath(name).suffix.lower()[:20]
        # 255 bytes are the limit of a file name; the hash keeps a shortened one unique.
        stem = PurePosixPath(name).stem.encode()[:200].decode(errors="ignore")
        digest = hashlib.sha256(data).hexdigest()
        relative = f"cleaned/{folder}/{stem}__{digest[:10]}{suffix}"
        target = self.base / relative
        if _holds(target, original, digest):
            return relative
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f".{uuid.uuid4().hex}")
        if original is None or not _link(original, temporary):
            temporary.write_bytes(data)
        temporary.replace(target)
        # rename() of two names of one file does nothing and leaves the temporary name behind.
        temporary.unlink(missing_ok=True)
        return relative


def _holds(target: Path, original: Path | None, digest: str) -> bool:
    if not target.is_file():
        return False
    if original is not None and original.samefile(target):
        return True
    return hashlib.sha256(target.read_bytes()).hexdigest() == digest


def _link(original: Path, target: Path) -> bool:
    try:
        os.link(original, target)
    except OSError as error:
        if error.errno in (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP):
            return False
        raise
    return True


def clean_source(
    run: RunFolder,
    *,
    source: str,
    adapter: str,
    root: Path,
    pool_base: Path,
    options: Mapping[str, str] | None = None,
) -> None:
    """Clean one source into ``run``.

    Writes ``<source>.csv`` (with the publisher's splits, 'unassigned' where there are none),
    ``quarantine.csv``, ``excluded.csv`` and ``clean_report.json``.
    """
    listing = get_adapter(adapter).listing(root, **(options or {}))
    pool = Pool(pool_base)
    containment = root.resolve()
    seen: set[tuple[Any, ...]] = set()
    kept: list[dict[str, Any]] = []
    excluded: list[dict[str, Any]] = []
    quarantined: list[dict[str, Any]] = []
    for row in tqdm(
        listing.iter_rows(named=True), total=listing.height, desc=f"clean {source}", disable=None
    ):
        note = {key: row[key] for key in ("where", "file", "native_label", "split")}
        note["source"] = source
        if row["fault"] is not None:
            rule, _, detail = row["fault"].partition(": ")
            quarantined.append({**note, "rule": rule, "detail": detail})
        elif row["excluded"] is not None:
            excluded.append({**note, "rule": row["excluded"], "detail": row["native_label"]})
        else:
            try:
                _refuse_repetition(row, seen)
                kept.append(_take(row, source, root, containment, pool))
            except Rejected as rejected:
                quarantined.append({**note, "rule": rejected.rule, "detail": rejected.detail})
    manifest = pl.DataFrame(kept, schema=SCHEMA).sort("image_path", "face_id", "bbox_left")
    if manifest.is_empty():
        raise FerError(
            f"source {source}: none of its {listing.height} rows can be used",
            where=root,
            fix=f"look at the first reasons: {_reasons(quarantined + excluded)}",
        )
    write_manifest(manifest, run.path(f"{source}.csv"))
    write_notes(run, "excluded.csv", excluded)
    write_notes(run, "quarantine.csv", quarantined)
    report = {
        "type": adapter,
        "dataset": source,
        "source": source,
        "output": f"cleaned/{source}",
        # Not the folder itself: the hash would then depend on where the data lies.
        "source_root": f"raw/{source}",
        "splits": _counts(manifest),
        "excluded": dict(Counter(row["rule"] for row in excluded)),
        "missing_images": sum(row["rule"] == "missing path" for row in quarantined),
        "quarantined": dict(Counter(row["rule"] for row in quarantined)),
        "rows_in": listing.height,
        "rows_kept": manifest.height,
        "rows_excluded": len(excluded),
        "rows_quarantined": len(quarantined),
        "notes": [],
    }
    run.write_json(
        "clean_report.json",
        clean_report([report], {"rows": manifest.height, "manifest": f"{source}.csv"}),
    )
    run.summary.update(
        rows=manifest.height,
        rows_in=listing.height,
        excluded=len(excluded),
        quarantined=len(quarantined),
    )


def build_source(run: RunFolder, job: Job) -> None:
    """The asset ``manifest/<source>``."""
    source = job.profile.source(job.asset.removeprefix("manifest/"))
    clean_source(
        run,
        source=source.name,
        adapter=source.adapter,
        root=job.paths[f"raw/{source.name}"],
        pool_base=job.store.root,
        options=source.options,
    )


def clean_report(reports: list[dict[str, Any]], manifest: dict[str, Any]) -> dict[str, Any]:
    """``clean_report.json`` with the first pipeline's keys, for one source or for all."""
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


def write_notes(run: RunFolder, name: str, rows: list[dict[str, Any]]) -> None:
    """Write rows that were left out, with their reasons, as a CSV of ``QUARANTINE_SCHEMA``."""
    run.write_text(name, pl.DataFrame(rows, schema=QUARANTINE_SCHEMA).write_csv())


def _take(
    row: dict[str, Any], source: str, root: Path, containment: Path, pool: Pool
) -> dict[str, Any]:
    """One listing row as a manifest row; ``Rejected`` when it cannot be used."""
    data, original = _read(row, root, containment)
    try:
        image = decode(data, where=row["file"])
    except FerError as error:
        raise Rejected("undecodable", error.what) from error
    height, width = image.shape[:2]
    box = _box(row)
    if box is not None:
        _check_box(box, width, height)
    photo = photo_hash(image)
    folder = f"{source}/photos" if box else f"{source}/{row['split']}/{row['label']}"
    name = row["file"] or f"{row['where'].replace(':', '_')}.png"
    return {
        "image_path": pool.add(folder, name, data, original),
        "label": row["label"],
        "split": row["split"],
        "source": source,
        "confidence": row["confidence"],
        "orig_image": row["file"] or row["where"],
        "face_id": row["face_id"],
        "bbox_left": box[0] if box else None,
        "bbox_top": box[1] if box else None,
        "bbox_right": box[2] if box else None,
        "bbox_bottom": box[3] if box else None,
        "bbox_frame": "photo" if box else None,
        "sample_id": sample_hash(photo, box),
        "group_id": photo,
        "votes": None if row["votes"] is None else ";".join(f"{v:g}" for v in row["votes"]),
        "width": width,
        "height": height,
    }


def _refuse_repetition(row: dict[str, Any], seen: set[tuple[Any, ...]]) -> None:
    """A publisher that lists one face of one file twice would count it twice."""
    key = (row["file"], row["where"] if row["file"] is None else None, _box(row))
    if key in seen:
        raise Rejected("duplicate row", f"{row['file']} is listed before, with the same box")
    seen.add(key)


def _read(row: dict[str, Any], root: Path, containment: Path) -> tuple[bytes, Path | None]:
    if row["inline_png"] is not None:
        return row["inline_png"], None
    path = root / row["file"]
    try:
        resolved = path.resolve(strict=True)
        if not resolved.is_relative_to(containment):
            raise Rejected("bad path", f"{row['file']} leaves the source's folder")
        return resolved.read_bytes(), resolved
    except FileNotFoundError as error:
        raise Rejected("missing path", f"{row['file']} does not exist") from error
    except (OSError, RuntimeError) as error:  # a name too long, a loop of links, no permission
        raise Rejected("missing path", f"{row['file']} cannot be read: {error}") from error


def _box(row: dict[str, Any]) -> Box | None:
    values = (row["bbox_left"], row["bbox_top"], row["bbox_right"], row["bbox_bottom"])
    return None if values[0] is None else values


def _check_box(box: Box, width: int, height: int) -> None:
    left, top, right, bottom = box
    if not (0 <= left < right <= width and 0 <= top < bottom <= height):
        raise Rejected(
            "bad box", f"(left, top, right, bottom) = {box} in a photo of {width}x{height} px"
        )


def _counts(manifest: pl.DataFrame) -> dict[str, dict[str, int]]:
    counts: dict[str, dict[str, int]] = {}
    for split, label, n in (
        manifest.group_by("split", "label").len().sort("split", "label").iter_rows()
    ):
        counts.setdefault(split, {})[label] = n
    return counts


def _reasons(rows: Iterable[dict[str, Any]]) -> str:
    return ", ".join(f"{n} {rule}" for rule, n in Counter(r["rule"] for r in rows).most_common(3))
