"""The rules of a manifest. Each is a pure function of the frame and of what its images hold."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import polars as pl
from tqdm import tqdm

from fer_ml.errors import FerError
from fer_ml.gates import Outcome, at_most
from fer_ml.images import read_image
from fer_ml.labels import CLASSES
from fer_ml.manifests.identity import photo_hash
from fer_ml.manifests.schema import REQUIRED, boxes
from fer_ml.profiles import SPLITS


@dataclass(frozen=True)
class Probe:
    """What is behind each distinct ``image_path``: size in px, hash, or the fault found.

    ``missing`` and ``undecodable`` map paths to reasons; ``size`` and ``photo`` cover the rest.
    """

    missing: dict[str, str]
    undecodable: dict[str, str]
    size: dict[str, tuple[int, int]]
    photo: dict[str, str]


def probe_images(frame: pl.DataFrame, root: Path) -> Probe:
    """Open and decode every distinct image of ``frame`` below ``root``: all of them, no sample."""
    missing: dict[str, str] = {}
    undecodable: dict[str, str] = {}
    size: dict[str, tuple[int, int]] = {}
    photo: dict[str, str] = {}
    paths = frame["image_path"].drop_nulls().unique(maintain_order=True)
    for name in tqdm(paths, desc="decode", disable=None):
        reason = escapes(name)
        if reason is None and not _is_file(root / name):
            reason = "no such file"
        if reason is not None:
            missing[name] = reason
            continue
        try:
            image = read_image(root / name)
        except FerError as error:
            undecodable[name] = error.what
            continue
        size[name] = (image.shape[1], image.shape[0])
        photo[name] = photo_hash(image)
    return Probe(missing, undecodable, size, photo)


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name too long
        return False


def escapes(name: str) -> str | None:
    """Why ``name`` is not a path below the root, or ``None``."""
    if "\0" in name:
        return "NUL in the path"
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or name[1:2] == ":":
        return "absolute path"
    if ".." in path.parts:
        return "'..' in the path"
    return None


def judge_manifest(frame: pl.DataFrame, probe: Probe) -> list[Outcome]:
    """All of ``MANIFEST_GATES`` for one manifest. Each value counts rows (groups for leakage)."""
    return [
        _count("schema", _empty_cells(frame)),
        _count("bad_labels", _outside(frame, "label", CLASSES)),
        _count("bad_splits", _outside(frame, "split", SPLITS)),
        _count("missing_paths", _by_path(frame, probe.missing)),
        _count("undecodable", _by_path(frame, probe.undecodable)),
        _count("changed_pixels", list(_changed(frame, probe))),
        _count("bad_boxes", list(_bad_boxes(frame, probe))),
        _count("leakage", _leaks(frame)),
        _count("label_conflicts", _conflicts(frame)),
    ]


def _count(rule: str, findings: list[str]) -> Outcome:
    return at_most(rule, len(findings), 0, examples=findings)


def _empty_cells(frame: pl.DataFrame) -> list[str]:
    rows = frame.with_row_index("row", offset=2)
    return [
        f"row {row}: {column} is empty"
        for column in REQUIRED
        for row in rows.filter(pl.col(column).is_null())["row"]
    ]


def _outside(frame: pl.DataFrame, column: str, allowed: tuple[str, ...]) -> list[str]:
    bad = frame.filter(~pl.col(column).is_in(list(allowed)).fill_null(False))
    return [
        f"{path}: {column} {value!r}"
        for path, value in bad.select("image_path", column).iter_rows()
    ]


def _by_path(frame: pl.DataFrame, reasons: dict[str, str]) -> list[str]:
    return [f"{path}: {reasons[path]}" for path in frame["image_path"] if path in reasons]


def _changed(frame: pl.DataFrame, probe: Probe) -> Iterator[str]:
    for path, group in frame.select("image_path", "group_id").iter_rows():
        if path in probe.photo and probe.photo[path] != group:
            yield f"{path}: its pixels are not those of the manifest"


def _bad_boxes(frame: pl.DataFrame, probe: Probe) -> Iterator[str]:
    for path, box in zip(frame["image_path"], boxes(frame), strict=True):
        if box is None or path not in probe.size:
            continue
        width, height = probe.size[path]
        if None in box or not (0 <= box[0] < box[2] <= width and 0 <= box[1] < box[3] <= height):
            yield f"{path}: box {box} in {width}x{height} px"


def _leaks(frame: pl.DataFrame) -> list[str]:
    leaking = (
        frame.group_by("group_id", maintain_order=True)
        .agg(pl.col("split").unique().sort(), pl.col("image_path").first())
        .filter(pl.col("split").list.len() > 1)
    )
    return [
        f"{path}: group {group} in {', '.join(splits)}"
        for group, splits, path in leaking.iter_rows()
    ]


def _conflicts(frame: pl.DataFrame) -> list[str]:
    twice = (
        frame.group_by("sample_id", maintain_order=True)
        .agg(pl.col("label").unique().sort(), pl.col("image_path").first())
        .filter(pl.col("label").list.len() > 1)
    )
    return [f"{path}: {' and '.join(labels)}" for _, labels, path in twice.iter_rows()]


def count_labels(frame: pl.DataFrame) -> dict[str, int]:
    """``{"source|split|label": n}``, the first pipeline's key."""
    return dict(
        sorted(
            Counter(
                "|".join(str(value) for value in row)
                for row in frame.select("source", "split", "label").iter_rows()
            ).items()
        )
    )
