"""AffectNet packed for YOLO: images, and for each a text file with a box for every face.

``<split>/images/<stem>.<suffix>`` and ``<split>/labels/<stem>.txt``, or ``images/<split>/...`` and
``labels/<split>/...``. A label file has ``<class> <cx> <cy> <w> <h>`` on each line: the place of
the class in ``names`` of ``data.yaml``, then centre and size of the box as fractions of the image.
The paths in ``data.yaml`` are those of the machine that wrote it, and are not followed.

An image without a line, or a label file without an image, is a fault: YOLO takes such an image for
background, but every image of this dataset shows a face.
"""

import io
import math
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import polars as pl

from fer_ml.base.errors import FerError
from fer_ml.base.labels import WORD_TABLE, LabelTable, split_of_word
from fer_ml.base.plain_yaml import read_plain
from fer_ml.base.reading import open_file, read_file
from fer_ml.images.pixels import FORMATS
from fer_ml.sources import Adapter
from fer_ml.sources._listing import (
    Row,
    RowFault,
    expect_fields,
    has_file,
    make_listing,
    parse_number,
    read_rows,
    require_file,
    require_root,
    set_label,
    shown,
    text_lines,
)
from fer_ml.sources.folders import Folder, odd_fault, path_fault, printable, walk

INDEX = "data.yaml"
#: It names a few classes and folders.
MAX_INDEX = 1_000_000
#: An edge so close to a whole pixel, in px, means it: written with six decimals, as is usual, an
#: edge is off by up to 7.5e-7 of the image's side.
TOLERANCE = 0.01
# A double holds every whole number up to here.
_MOST = 2**53
_SWAPPED = {"images": "labels", "labels": "images"}
_ORIENTATION = 0x0112
#: Bytes in which an image says its size.
_HEAD = 4 << 20
_TURNED = (5, 6, 7, 8)


def list_boxes(root: Path, labels: LabelTable) -> pl.DataFrame:
    """Return the listing of all label files. Boxes outside the image stay: a gate finds them."""
    root = require_root(root)
    names = class_names(require_file(root, INDEX))
    folders = sorted(walk(root, 2), key=lambda folder: folder.parts)
    files = {folder.parts: folder.files for folder in folders}
    if not any(map(_kind, files)):
        raise FerError(
            "no folder of images or labels here",
            code="missing-image-folder",
            where=root,
            allowed="<split>/images and <split>/labels, or images/<split> and labels/<split>",
            fix=f"point the source at the folder that holds {INDEX} and these folders",
        )
    rows: list[Row] = []
    for folder in folders:
        counterparts = files.get(_counterpart(folder), [])
        rows += _rows_of_folder(root, folder, counterparts, names, labels)
        rows += [_faulty(folder, name, odd_fault(name)) for name in folder.odd]
    if not rows:
        raise FerError(
            "dataset folder holds no images",
            code="no-images",
            where=root,
            fix="unpack the dataset there",
        )
    return make_listing(rows)


def class_names(index: Path) -> dict[str, str]:
    """Read ``names`` of ``data.yaml``: index (as text) to word; ``FerError`` if it is ambiguous."""
    try:
        content = read_plain(read_file(index, MAX_INDEX))
    except OSError as error:
        raise FerError(
            f"{INDEX} cannot be read: {error.strerror}",
            code="unreadable-file",
            where=index,
            fix="grant read access, or copy the file again",
        ) from error
    except ValueError as error:
        raise FerError(
            f"{INDEX} is not YAML", code="invalid-yaml", where=index, fix="replace the file"
        ) from error
    names = content.get("names") if isinstance(content, dict) else None
    if isinstance(names, dict):
        names = [names.get(str(place)) for place in range(len(names))]
    if not names or not isinstance(names, list) or not all(isinstance(n, str) for n in names):
        raise FerError(
            f"{INDEX} does not name the classes",
            code="invalid-class-names",
            where=index,
            allowed="names: a list of words, or a word for each number from 0",
            fix="take the file that came with the dataset",
        )
    if content.get("nc", str(len(names))) != str(len(names)):
        raise FerError(
            f"{INDEX} says nc: {shown(str(content['nc']))} and has {len(names)} names",
            code="class-count-mismatch",
            where=index,
            fix="correct the one that is wrong",
        )
    return {str(place): name for place, name in enumerate(names)}


def _kind(parts: Sequence[str]) -> str | None:
    """Return 'images' or 'labels' if the folder is of that kind, with a split above or below."""
    return next((part for part in parts if part in _SWAPPED), None) if len(parts) == 2 else None


def _counterpart(folder: Folder) -> tuple[str, ...]:
    return tuple(_SWAPPED.get(part, part) for part in folder.parts)


def _label_file(image: str) -> str:
    return f"{image.rpartition('.')[0] or image}.txt"


def _rows_of_folder(
    root: Path,
    folder: Folder,
    counterparts: list[str],
    names: dict[str, str],
    labels: LabelTable,
) -> Iterator[Row]:
    kind = _kind(folder.parts)
    if kind == "images":
        yield from _faces(root, folder, set(counterparts), names, labels)
        return
    fault = "bad path: neither an image nor a label file"
    unused = sorted(folder.files)
    if kind == "labels":
        fault = "bad label: no image belongs to this file"
        used = {_label_file(image) for image in counterparts}
        unused = [name for name in unused if name not in used]
    for name in unused:
        yield _faulty(folder, name, fault)


def _faces(
    root: Path, images: Folder, files: set[str], names: dict[str, str], labels: LabelTable
) -> Iterator[Row]:
    first, second = images.parts
    word = second if first == "images" else first
    split = split_of_word(word)
    sharing = Counter(map(_label_file, images.files))
    label_folder = Folder(_counterpart(images), [], []).prefix
    for name in sorted(images.files):
        image, label = images.prefix + name, _label_file(name)
        if fault := path_fault(image):
            yield _faulty(images, name, fault)
        elif split is None:
            yield _faulty(images, name, f"unknown split: {shown(word)}")
        elif label not in files:
            yield _faulty(images, name, f"bad label: no label file {shown(label)}")
        elif sharing[label] > 1:
            yield _faulty(images, name, f"bad label: {shown(label)} belongs to several images")
        else:
            rows = _faces_of_image(root, image, label_folder + label, names, labels)
            yield from ({**row, "split": split} for row in rows)


def _faces_of_image(
    root: Path, image: str, label: str, names: dict[str, str], labels: LabelTable
) -> list[Row]:
    """Return one row for each line of the file ``label``, or one row with the fault."""
    try:
        lines = list(text_lines(root / label, root))
    except FerError as error:
        return [{"where": label, "file": image, "fault": f"bad label: {error.what}"}]
    if not lines:
        return [{"where": label, "file": image, "fault": "bad label: no face in the label file"}]
    size = _image_size(root / image)

    def parse(row: Row, text: str) -> None:
        place, *box = expect_fields(text.split(), 5)
        row.update(_edges(box, size))
        row["native_label"] = names.get(place, place)
        if place not in names:
            raise RowFault(f"bad label: {shown(place)}")
        set_label(row, names[place], labels)

    rows = read_rows(label, parse, lines)
    return [{**row, "file": image, "face_id": place} for place, row in enumerate(rows)]


def _edges(fields: list[str], size: tuple[int, int] | None) -> dict[str, int]:
    """Return the box in px, right and bottom exclusive, with every pixel that it touches."""
    cx, cy, w, h = (
        parse_number(text, name) for text, name in zip(fields, ("cx", "cy", "w", "h"), strict=True)
    )
    if size is None:
        raise RowFault("undecodable: no image size in the file's header")
    left, right = (cx - w / 2) * size[0], (cx + w / 2) * size[0]
    top, bottom = (cy - h / 2) * size[1], (cy + h / 2) * size[1]
    if not all(abs(edge) < _MOST for edge in (left, top, right, bottom)):
        raise RowFault("malformed line: the box is not in fractions of the image")
    return {
        "bbox_left": math.floor(left + TOLERANCE),
        "bbox_top": math.floor(top + TOLERANCE),
        "bbox_right": math.ceil(right - TOLERANCE),
        "bbox_bottom": math.ceil(bottom - TOLERANCE),
    }


def _image_size(path: Path) -> tuple[int, int] | None:
    """Return width and height in px after the image's EXIF rotation, or ``None``.

    Only the beginning of the file is read, so a damaged image can still have a size.
    """
    from PIL import Image

    try:
        with warnings.catch_warnings():
            # Pillow warns of very large images: they are refused where they would be decoded.
            warnings.simplefilter("ignore")
            with open_file(path) as file:
                head = io.BytesIO(file.read(_HEAD))
            with Image.open(head, formats=tuple(FORMATS)) as image:
                width, height = image.size
                turn = image.getexif().get(_ORIENTATION) if "exif" in image.info else None
    except Exception:  # noqa: BLE001 - Pillow's parsers raise nearly anything on hostile bytes
        return None
    return (height, width) if turn in _TURNED else (width, height)


def _faulty(folder: Folder, name: str, fault: str) -> Row:
    return {"where": printable(folder.prefix + name), "fault": fault}


ADAPTER = Adapter(
    name="affectnet_yolo",
    title="AffectNet packed for YOLO, faces with boxes",
    layout="data.yaml; {train,valid,val,test}/images/<image> with {...}/labels/<stem>.txt",
    read=list_boxes,
    fits=has_file(INDEX),
    labels=WORD_TABLE,
)
