"""ExpW as its authors publish it: photos from the web with a box for each face.

``label.lst`` has eight fields on each line: image name, index of the face in the image, the box as
top, left, right, bottom in px of the photo, the confidence of the box, and the label from 0 to 6.
The photos lie in ``origin/``, or in ``origin/origin/`` when the archives were unpacked there. The
publisher gives no split.
"""

from pathlib import Path

import polars as pl

from fer_ml.base.labels import EXPW_IDS, LabelTable, numbered
from fer_ml.sources import Adapter, Option
from fer_ml.sources._listing import (
    INTEGER,
    NAME,
    NUMBER,
    WORD,
    Lines,
    Row,
    expect_fields,
    has_file,
    label_columns,
    parse_integer,
    parse_number,
    require_file,
    require_folder,
    require_root,
    safe_path,
    set_label,
)

INDEX = "label.lst"
IMAGE_FOLDERS = ("origin/origin", "origin")
#: The file's own order, which is not left, top, right, bottom.
BOX_ORDER = ("bbox_top", "bbox_left", "bbox_right", "bbox_bottom")
_PLAIN = {
    "file": NAME,
    "face_id": INTEGER,
    **dict.fromkeys(BOX_ORDER, INTEGER),
    "confidence": NUMBER,
    "native_label": WORD,
}


def list_faces(root: Path, labels: LabelTable, min_confidence: str = "") -> pl.DataFrame:
    """Return the listing of ``label.lst``. Boxes are kept as they are: a gate finds invalid ones.

    Faces whose box has a confidence below ``min_confidence`` are excluded.
    """
    root = require_root(root)
    index = require_file(root, INDEX)
    folder = require_folder(root, *IMAGE_FOLDERS)

    def parse(row: Row, text: str) -> None:
        name, face, *box, confidence, label = expect_fields(text.split(), 8)
        face_id = parse_integer(face, "face id")
        edges = [parse_integer(edge, key) for key, edge in zip(BOX_ORDER, box, strict=True)]
        score = parse_number(confidence, "confidence")
        # All numbers first: a box with an edge missing would be worse than none.
        row.update(zip(BOX_ORDER, edges, strict=True), face_id=face_id, confidence=score)
        row["split"] = "unassigned"
        row["file"] = f"{folder}/{safe_path(name)}"
        set_label(row, label, labels)

    lines = Lines(index, _PLAIN)
    columns = {
        **{name: pl.col(name) for name in _PLAIN},
        **label_columns(lines.cells, "native_label", labels),
        "file": f"{folder}/" + pl.col("file"),
        "split": pl.lit("unassigned"),
    }
    faces = lines.listing(columns, parse)
    return _exclude_below(faces, float(min_confidence)) if min_confidence else faces


def _exclude_below(faces: pl.DataFrame, confidence: float) -> pl.DataFrame:
    low = pl.col("label").is_not_null() & (pl.col("confidence") < confidence)
    return faces.with_columns(
        label=pl.when(~low).then("label"),
        excluded=pl.when(low).then(pl.lit("low confidence")).otherwise("excluded"),
    )


ADAPTER = Adapter(
    name="expw",
    title="Expression in-the-Wild",
    layout="label.lst; origin/<image>",
    read=list_faces,
    fits=has_file(INDEX),
    labels=numbered(EXPW_IDS),
    options={
        "min_confidence": Option(
            meaning="faces whose box has a lower confidence are excluded (default: none)",
            allowed="a number such as 60 or 62.5, as text",
            pattern=NUMBER,
        )
    },
)
