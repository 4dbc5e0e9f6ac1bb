"""A fault for each gate of sources, manifests and their validation.

A fault in a row is planted in the manifests that the row came from, too: a row that its inputs do
not give is another gate's.
"""

import io
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import polars as pl
from PIL import Image

from fer_assets.lineage import Target
from fer_assets.stages import manifest_validation
from fer_ml.base.labels import CLASSES
from fer_ml.images.identity import photo_hash, sample_hash
from fer_ml.images.pixels import encode_png, read_image
from fer_ml.manifests.curation import COLOURS_FILE, TRAINED_ON, UNIFIED, manifest_file
from fer_ml.manifests.schema import BOX, read_manifest, write_manifest
from tests.conftest import noise
from tests.fer_assets.gates.planting import (
    Copy,
    Fault,
    Faults,
    Plant,
    copied,
    every,
    one,
    sets,
    table,
    text,
)

VALIDATION = Target("manifest_validation")
REPORT = ("clean_report.json", "reports", 0)
Edit = Callable[[pl.DataFrame], pl.DataFrame]
#: Cells by the path of the image in whose rows they are.
Cells = Mapping[str, Mapping[str, Any]]


def csv_of(copy: Copy) -> str:
    """The manifest in a run folder of any stage of manifests."""
    (found,) = [
        path.name
        for path in copy.folder.glob("*.csv")
        if path.name not in ("quarantine.csv", "excluded.csv", "labels.csv")
    ]
    return found


def own(change: Edit) -> Plant:
    """Other rows in this manifest, and in none that it came from."""

    def plant(copy: Copy) -> None:
        path = copy.folder / csv_of(copy)
        write_manifest(change(read_manifest(path)), path)

    return plant


def rows(change: Callable[[Copy, pl.DataFrame], Edit]) -> Plant:
    """Other rows in this manifest and in all that they came from."""

    def plant(copy: Copy) -> None:
        everywhere(copy, change(copy, read_manifest(copy.folder / csv_of(copy))))

    return plant


def everywhere(copy: Copy, edit: Edit) -> None:
    """Edit a manifest and what it was made from."""
    own(edit)(copy)
    for item in list(copy.inputs):
        if not item.asset.startswith("raw/"):
            copy.other_input(item.asset, lambda above: everywhere(above, edit))


def cells(change: Callable[[Copy, pl.DataFrame], Cells]) -> Plant:
    """Other cells in some rows."""

    def edit_of(copy: Copy, frame: pl.DataFrame) -> Edit:
        changes = change(copy, frame)
        return lambda held: with_cells(held, changes)

    return rows(edit_of)


def with_cells(frame: pl.DataFrame, changes: Cells) -> pl.DataFrame:
    """The rows with other cells."""
    for path, changed in changes.items():
        frame = frame.with_columns(
            pl.when(pl.col("image_path") == path)
            .then(pl.lit(value, frame.schema[name]))
            .otherwise(pl.col(name))
            .alias(name)
            for name, value in changed.items()
        )
    return frame


def faces(frame: pl.DataFrame, **where: str) -> list[dict[str, Any]]:
    """Rows of faces that are whole images, each of its own, and not the last of their class."""
    common = pl.len().over("split", "label") > 3
    alone = pl.col("group_id").is_unique() & pl.col("bbox_left").is_null()
    return frame.filter(common, alone, **where).to_dicts()


def face(frame: pl.DataFrame, **where: str) -> dict[str, Any]:
    """The first of ``faces``."""
    return faces(frame, **where)[0]


def cells_of_one(**changed: Any) -> Plant:
    """Other cells in one row."""
    return cells(lambda copy, frame: {face(frame)["image_path"]: changed})


def image(data: bytes, suffix: str) -> Plant:
    """Another file behind one row."""

    def change(copy: Copy, frame: pl.DataFrame) -> Cells:
        return {face(frame)["image_path"]: {"image_path": put(copy, data, suffix)}}

    return cells(change)


def put(copy: Copy, data: bytes, suffix: str, name: str = "cleaned/planted") -> str:
    """A file below the root, beside the images."""
    copy.beside(copy.store.root / f"{name}{suffix}", data)
    return f"{name}{suffix}"


def pillow(mode: str, kind: str) -> bytes:
    """A small picture in a mode and format of Pillow's."""
    buffer = io.BytesIO()
    Image.new(mode, (24, 24)).save(buffer, kind)
    return buffer.getvalue()


def vast_gif() -> bytes:
    """A picture whose header says 65,000 x 65,000."""
    data = bytearray(pillow("L", "GIF"))
    data[6:10] = (65000).to_bytes(2, "little") * 2
    return bytes(data)


def suffix_of_another_format(copy: Copy, frame: pl.DataFrame) -> Cells:
    row = next(row for row in faces(frame) if row["image_path"].endswith(".jpg"))
    data = (copy.store.root / row["image_path"]).read_bytes()
    return {row["image_path"]: {"image_path": put(copy, data, ".png")}}


def names_that_differ_in_case(copy: Copy, frame: pl.DataFrame) -> Cells:
    first, second, *_ = faces(frame)
    folder, _, name = second["image_path"].rpartition("/")
    data = (copy.store.root / first["image_path"]).read_bytes()
    stem, _, suffix = name.rpartition(".")
    path = put(copy, data, f".{suffix}", f"{folder}/{stem.swapcase()}")
    return {first["image_path"]: {"image_path": path}}


def wider(copy: Copy, frame: pl.DataFrame) -> Cells:
    row = face(frame)
    return {row["image_path"]: {"width": row["width"] + 1}}


def other_pixels(copy: Copy, frame: pl.DataFrame) -> Cells:
    row = face(frame)
    data = encode_png(noise(1, row["width"], row["height"]))
    return {row["image_path"]: {"image_path": put(copy, data, ".png")}}


def box_that_leaves_its_image(copy: Copy, frame: pl.DataFrame) -> Cells:
    row = face(frame)
    box = (1, 1, row["width"] + 1, row["height"])
    identity = {"sample_id": sample_hash(row["sample_id"], box), "bbox_frame": "photo"}
    return {row["image_path"]: {**dict(zip(BOX, box, strict=True)), **identity}}


def twin(copy: Copy, row: dict[str, Any], of: dict[str, Any], **changed: Any) -> Cells:
    """``row`` with the very picture of another one."""
    data = (copy.store.root / of["image_path"]).read_bytes()
    same = {name: of[name] for name in ("sample_id", "group_id", "width", "height")}
    path = put(copy, data, ".jpg")
    return {row["image_path"]: {**same, "image_path": path, **changed}}


def same_face_twice(copy: Copy, frame: pl.DataFrame) -> Cells:
    first = face(frame, source="affectnet_full_balanced")
    where = {name: first[name] for name in ("source", "split", "label")}
    return twin(copy, faces(frame, **where)[1], first)


def same_face_with_two_labels(copy: Copy, frame: pl.DataFrame) -> Cells:
    first = face(frame, source="affectnet_full_balanced", label="Happy")
    second = face(frame, source="rafdb_basic", split=first["split"], label="Sad")
    return twin(copy, second, first)


def group_in_two_splits(copy: Copy, frame: pl.DataFrame) -> Cells:
    test, trained = face(frame, split="val"), face(frame, split="train")
    return {test["image_path"]: {"group_id": trained["group_id"]}}


def brighter_twin(copy: Copy, frame: pl.DataFrame) -> Cells:
    test, trained = face(frame, split="val"), face(frame, split="train")
    pixels = read_image(copy.store.root / trained["image_path"])
    twin = (pixels * 0.6 + 70).astype(np.uint8)
    photo = photo_hash(twin)
    same = {name: trained[name] for name in ("width", "height")}
    path = put(copy, encode_png(twin), ".png")
    return {test["image_path"]: {**same, "image_path": path, "sample_id": photo, "group_id": photo}}


def split_without_a_class(copy: Copy, frame: pl.DataFrame) -> Edit:
    counts = frame.group_by("split", "label").len().sort("len", "split", "label")
    split, label, _ = counts.row(0)
    other = CLASSES[CLASSES.index(label) - 1]
    gone = (pl.col("split") == split) & (pl.col("label") == label)
    paths = frame.filter(gone)["image_path"].implode()
    here = pl.col("image_path").is_in(paths) & (pl.col("label") == label)
    return lambda held: held.with_columns(
        pl.when(here).then(pl.lit(other)).otherwise("label").alias("label")
    )


def one_row_of_a_class(copy: Copy, frame: pl.DataFrame) -> Edit:
    trained = frame.filter(split="train")
    counts = trained.group_by("label").len().sort("len", "label")
    small, large = counts["label"][0], counts["label"][-1]
    others = trained.filter(label=small)["image_path"][1:]
    here = pl.col("image_path").is_in(others.implode())
    return lambda held: held.with_columns(
        pl.when(here).then(pl.lit(large)).otherwise("label").alias("label")
    )


def brighter(copy: Copy, frame: pl.DataFrame) -> Edit:
    return lambda held: held.with_columns(pl.col("brightness") + 10)


def without_a_source(frame: pl.DataFrame) -> pl.DataFrame:
    return frame.filter(pl.col("source") != "rafdb_basic")


def other_label(frame: pl.DataFrame) -> pl.DataFrame:
    first, label = pl.int_range(pl.len()) == 0, frame["label"][0]
    other = CLASSES[CLASSES.index(label) - 1]
    return frame.with_columns(label=pl.when(first).then(pl.lit(other)).otherwise("label"))


def row_for_another(frame: pl.DataFrame) -> pl.DataFrame:
    """As many rows as before: one is there twice, and another one lost."""
    return pl.concat([frame[:1], frame[:1], frame[2:]])


def further_source(copy: Copy) -> None:
    copy.recipe["sources"]["nowhere"] = {}


def in_csv(change: Callable[[str], str]) -> Plant:
    """Another text of the manifest."""
    return lambda copy: text(csv_of(copy), change)(copy)


NOT_GIVEN = one(own(lambda frame: frame[1:]), own(other_label))
OF_ROWS: Faults = {
    "malformed_rows": one(in_csv(lambda csv: f"{csv}only,three,cells\n")),
    "csv_dialect": one(in_csv(lambda csv: f"\ufeff{csv}")),
    "schema": one(cells_of_one(width=None)),
    "bad_labels": one(cells_of_one(label="Bored")),
    "bad_splits": one(cells_of_one(split="tset")),
    "escaping_paths": one(cells_of_one(image_path="../face.png")),
    "missing_paths": one(cells_of_one(image_path="cleaned/gone.png")),
    "case_collisions": one(cells(names_that_differ_in_case)),
    "undecodable": one(image(b"<html>404 not found</html>", ".png")),
    "oversized": one(image(vast_gif(), ".gif")),
    "image_modes": one(image(pillow("RGBA", "PNG"), ".png")),
    "suffixes": one(cells(suffix_of_another_format)),
    "image_sizes": one(cells(wider)),
    "changed_pixels": one(cells(other_pixels)),
    "bad_boxes": one(cells(box_that_leaves_its_image)),
    "duplicates": one(cells(same_face_twice)),
    "leakage": one(cells(group_in_two_splits)),
    "near_leakage": one(cells(brighter_twin)),
    "label_conflicts": one(cells(same_face_with_two_labels)),
    "class_coverage": one(rows(split_without_a_class)),
    "imbalance": (
        Fault(
            rows(one_row_of_a_class),
            also=frozenset({"drift"}),
            because="a class of which one training row is left has drifted",
        ),
    ),
    "sources_present": one(further_source),
    "reconciled": (
        *NOT_GIVEN,
        Fault(
            own(row_for_another),
            also=frozenset({"duplicates"}),
            because="a row in another one's place is a face that its source has twice",
        ),
    ),
    "drift": one(rows(brighter)),
}
#: Those of a curation, which names rows by source and split, where they differ.
OF_CURATED: Faults = {
    **OF_ROWS,
    "bad_splits": (
        Fault(
            cells_of_one(split="tset"),
            also=frozenset({"reconciled"}),
            because="a curation takes rows by their split, and none of a split that is none",
        ),
    ),
    "sources_present": (
        Fault(
            own(without_a_source),
            also=frozenset({"reconciled", "drift"}),
            because="rows of a source that are gone are lost rows too",
        ),
    ),
}


def left_out(rule: str, count: int) -> Plant:
    """So many rows of the source are quarantined for one reason, and as many more listed."""
    row = pl.DataFrame({"rule": [rule] * count}, schema={"rule": pl.String})

    def told(held: dict[str, Any]) -> dict[str, Any]:
        parts = {"rows_quarantined": count, "quarantined": {rule: count} if count else {}}
        return held | parts | {"rows_in": held["rows_kept"] + held["rows_excluded"] + count}

    return every(
        table("quarantine.csv", lambda held: pl.concat([held.clear(), row], how="diagonal")),
        sets(*REPORT, to=told),
    )


def all_excluded(copy: Copy) -> None:
    """Each row that was kept is excluded instead."""
    kept = read_manifest(copy.folder / csv_of(copy))
    more = kept.select("source", "split")

    def told(held: dict[str, Any]) -> dict[str, Any]:
        return held | {"rows_kept": 0, "rows_excluded": held["rows_excluded"] + kept.height}

    own(lambda frame: frame.clear())(copy)
    table("excluded.csv", lambda held: pl.concat([held, more], how="diagonal"))(copy)
    sets(*REPORT, to=told)(copy)


def unknown_label(held: pl.DataFrame) -> pl.DataFrame:
    """A label of the source means nothing to its adapter."""
    here = pl.col("native_label") == "Anger"
    return held.with_columns(
        refused=pl.when(here).then("rows").otherwise("refused"),
        means=pl.when(~here).then("means"),
    )


def all_grey(held: dict[str, Any]) -> dict[str, Any]:
    return {source: {**seen, "grey": seen["looked_at"]} for source, seen in held.items()}


def sick_image(copy: Copy) -> None:
    """The manifests are validated while an image cannot be decoded."""
    frame = read_manifest(copy.input(UNIFIED).file(manifest_file(UNIFIED)))
    path = copy.store.root / frame["image_path"][0]
    aside = path.rename(path.with_suffix(".aside"))
    copy.undo.callback(aside.rename, path)
    copy.beside(path, b"no image")
    manifest_validation.build(copy.run, copy.pipeline.job(VALIDATION)[0])


def made_since(copy: Copy) -> None:
    """A manifest was made anew after its report."""
    copied(copy.pipeline, copy.input("eval_only_manifest"), copy.undo, own(other_label))


PLANTED: dict[Target, Faults] = {
    Target("manifest/affectnet_full_balanced"): {
        "adapter_fits": one(table("labels.csv", unknown_label)),
        "rows_usable": one(all_excluded),
        "reconciled": one(
            sets(*REPORT, "rows_in", to=lambda rows: rows + 1),
            own(lambda frame: frame[1:]),
            table("excluded.csv", lambda frame: frame[1:]),
        ),
        "quarantine_empty": (Fault(left_out("missing path", 1), sound=left_out("", 0)),),
    },
    Target(UNIFIED): OF_ROWS,
    Target(TRAINED_ON): {
        **OF_CURATED,
        "colour_as_prepared": one(sets(COLOURS_FILE, "by_source", to=all_grey)),
    },
    Target("eval_only_manifest"): {"reconciled": NOT_GIVEN},
    VALIDATION: {"all_passed": one(sick_image), "of_current_manifests": one(made_since)},
}
