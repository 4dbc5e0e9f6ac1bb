"""Contact sheets of faces as PNG bytes: examples of a manifest or of its findings.

Manifests may be foreign. So no file outside their root is read, and no image is decoded that
declares a huge size. A face that cannot be shown becomes a marked tile with the reason, never an
error.
"""

import hashlib
import io
import textwrap
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

import cv2
import matplotlib
import numpy as np
import polars as pl
from PIL import Image, ImageDraw, ImageFont

from fer_ml.base.errors import FerError
from fer_ml.base.frames import apart
from fer_ml.base.labels import CLASSES
from fer_ml.figures.charts import MAX_SOURCE_ROWS, shorten
from fer_ml.images.pixels import Box, crop_face, read_image
from fer_ml.manifests.schema import boxes

#: Side in px of a face in a sheet of classes, and in one of findings.
CLASS_SIDE = 48
FINDING_SIDE = 96

_GAP = 4
_LINE = 13
_MAX_LINES = 4
_COLOURS = 128
_PAPER, _INK, _PALE, _EMPTY, _MARK = "#FFFFFF", "#222222", "#777777", "#EEEEEE", "#B3261E"


class Tile(NamedTuple):
    """One picture of a sheet: ``image [H, W, 3] uint8 RGB``, or ``None`` if it cannot be read.

    Line ends separate lines of the caption; long lines are wrapped.
    """

    image: np.ndarray | None
    caption: str = ""


def read_face(root: Path, image_path: str | None, box: Box | None) -> np.ndarray:
    """Return the face ``[H, W, 3] uint8 RGB`` of a manifest's row; ``FerError`` states the fault.

    Reads regular files below ``root`` only, after following links. ``box`` as in ``crop_face``.
    """
    if not image_path:
        raise FerError("no image path", code="missing-image-path")
    try:
        path = (root / image_path).resolve()
        if not path.is_relative_to(root.resolve()):
            raise FerError("path leaves the root", code="path-leaves-root")
        if not path.exists():
            raise FerError("no such file", code="missing-image")
        if not path.is_file():
            raise FerError("not a regular file", code="not-regular-file")
    # A NUL, a name that is too long, a loop of links.
    except (ValueError, OSError, RuntimeError) as error:
        raise FerError("path cannot be followed", code="invalid-path") from error
    return crop_face(read_image(path), box)


def read_tile(root: Path, image_path: str | None, box: Box | None) -> Tile:
    """Return the face as a tile without a caption; if unreadable, the caption is the reason."""
    try:
        return Tile(read_face(root, image_path, box))
    except FerError as error:
        return Tile(None, error.what)


def fit(image: np.ndarray, side: int) -> np.ndarray:
    """Resize ``image [H, W, 3] uint8`` in proportion so that its longer side is ``side`` px."""
    height, width = image.shape[:2]
    scale = side / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    return cv2.resize(image, size, interpolation=how)


def contact_sheet(tiles: Sequence[Tile], columns: int = 8, side: int = FINDING_SIDE) -> bytes:
    """Return a PNG of ``tiles`` in rows of ``columns``, each ``side`` px with its caption below."""
    return _png(_stack([_row(tiles[i : i + columns], side) for i in range(0, len(tiles), columns)]))


def class_sheet(
    parts: pl.DataFrame | Iterable[pl.DataFrame], root: Path, *, per_cell: int = 3, seed: int = 0
) -> bytes:
    """Return a PNG of examples of each class (columns) of each source (rows) of a manifest.

    ``parts`` are its rows in one frame or in several. The ``per_cell`` faces of each cell are those
    of least hash of ``seed`` and ``sample_id``, whatever the order of the rows. Only their files
    are read. An empty cell is captioned none. Of more than ``MAX_SOURCE_ROWS`` sources the largest
    are shown.
    """
    parts = [parts] if isinstance(parts, pl.DataFrame) else parts
    chosen = _choose(parts, per_cell, seed)
    sources = sorted(chosen["source"].unique())
    pitch = CLASS_SIDE + 2
    left = max([round(_font().getlength(shorten(name))) for name in sources] or [0]) + 2 * _GAP
    columns = {name: left + i * (per_cell * pitch + _GAP) for i, name in enumerate(CLASSES)}
    rows = {name: _LINE + _GAP + i * (pitch + _GAP) for i, name in enumerate(sources)}
    sheet = _blank(
        left + len(columns) * (per_cell * pitch + _GAP), _LINE + _GAP + len(rows) * (pitch + _GAP)
    )
    pen = ImageDraw.Draw(sheet)
    for label, x in columns.items():
        pen.text((x, 0), label, _INK, _font(bold=True))
    for source, y in rows.items():
        pen.text((_GAP, y + CLASS_SIDE // 2), shorten(source), _INK, _font(), anchor="lm")
        for x in columns.values():
            pen.text((x, y + CLASS_SIDE // 2), "none", _PALE, _font(), anchor="lm")
    cells = chosen.select("source", "label", "place", "image_path").iter_rows()
    for (source, label, place, path), box in zip(cells, boxes(chosen), strict=True):
        face = _cell(read_tile(root, path, box).image, CLASS_SIDE)
        sheet.paste(face, (columns[label] + place * pitch, rows[source]))
    return _png(sheet)


def _choose(parts: Iterable[pl.DataFrame], per_cell: int, seed: int) -> pl.DataFrame:
    """Return the rows of a class sheet; ``place`` is a row's index in its cell, from 0."""
    chosen: list[pl.DataFrame] = []
    counted: list[pl.DataFrame] = []
    for part in parts:
        rows = part.filter(pl.col("label").is_in(CLASSES)).with_columns(
            pl.col("source").fill_null("(none)")
        )
        counted.append(rows.group_by("source").len())
        ranks = [
            hashlib.blake2b(f"{seed}:{sample}".encode(), digest_size=8).digest()
            for sample in rows["sample_id"]
        ]
        ranked = rows.with_columns(pl.Series("rank", ranks, pl.Binary))
        chosen = [apart(_least(pl.concat([*chosen, ranked], how="diagonal"), per_cell))]
    sizes = pl.concat(counted).group_by("source").agg(pl.col("len").sum())
    largest = sizes.sort(["len", "source"], descending=[True, False]).head(MAX_SOURCE_ROWS)
    return chosen[0].join(largest, on="source", how="semi", maintain_order="left")


def _least(rows: pl.DataFrame, per_cell: int) -> pl.DataFrame:
    """Return the rows of least ``rank`` of each class and source, and their ``place``."""
    cell = ["source", "label"]
    return (
        rows.sort(*cell, "rank", "image_path")
        .unique([*cell, "rank"], keep="first", maintain_order=True)
        .with_columns(pl.int_range(pl.len()).over(cell).alias("place"))
        .filter(pl.col("place") < per_cell)
    )


def findings_sheet(findings: pl.DataFrame, root: Path, *, limit: int = 8) -> bytes | None:
    """Return a PNG of up to ``limit`` findings of each rule; ``None`` without any picture.

    ``findings`` has rule, image_path, detail and the columns of the box. Rules and examples come in
    its order. Findings without an image have no example; an image is an example of a rule once. An
    image whose box is not inside it is shown whole.
    """
    shown = findings.filter(pl.col("image_path").is_not_null()).unique(
        ["rule", "image_path"], keep="first", maintain_order=True
    )
    if shown.is_empty():
        return None
    parts = []
    for (rule,), rows in shown.group_by("rule", maintain_order=True):
        examples = rows.head(limit)
        tiles = []
        texts = examples.select("image_path", "detail").iter_rows()
        for (path, detail), box in zip(texts, boxes(examples), strict=True):
            image, reason = read_tile(root, path, box)
            if image is None and box:  # The box may be what was found.
                image = read_tile(root, path, None).image
            name = path.rpartition("/")[2]
            tiles.append(Tile(image, f"{shorten(name, 16)}\n{reason or detail or ''}"))
        parts += [
            _heading(rule, f"{examples.height} of {rows.height:,}"),
            _row(tiles, FINDING_SIDE),
        ]
    return _png(_stack(parts))


@cache
def _font(bold: bool = False) -> ImageFont.FreeTypeFont:
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    path = Path(matplotlib.get_data_path(), "fonts/ttf", name)
    return ImageFont.truetype(path, 10, layout_engine=ImageFont.Layout.BASIC)


def _blank(width: int, height: int) -> Image.Image:
    return Image.new("RGB", (width, height), _PAPER)


def _cell(image: np.ndarray | None, side: int) -> Image.Image:
    """Return a square with the face in its middle, or with a cross."""
    cell = Image.new("RGB", (side, side), _EMPTY)
    if image is None:
        pen = ImageDraw.Draw(cell)
        pen.rectangle((0, 0, side - 1, side - 1), outline=_MARK)
        pen.line((0, 0, side - 1, side - 1), _MARK)
        pen.line((0, side - 1, side - 1, 0), _MARK)
    else:
        face = Image.fromarray(fit(image, side))
        cell.paste(face, ((side - face.width) // 2, (side - face.height) // 2))
    return cell


def _row(tiles: Sequence[Tile], side: int) -> Image.Image:
    """Return ``tiles`` side by side with their captions, which are cut at the tile's edge."""
    pitch = side + 2 * _GAP
    captions = [_wrap(tile.caption, side) for tile in tiles]
    row = _blank(len(tiles) * pitch, side + 2 * _GAP + _LINE * max(map(len, captions)))
    for index, (tile, lines) in enumerate(zip(tiles, captions, strict=True)):
        row.paste(_cell(tile.image, side), (index * pitch + _GAP, _GAP))
        text = _blank(side + _GAP, _LINE * len(lines))
        pen = ImageDraw.Draw(text)
        for number, line in enumerate(lines):
            pen.text((0, number * _LINE), line, _MARK if tile.image is None else _INK, _font())
        row.paste(text, (index * pitch + _GAP, side + _GAP))
    return row


def _wrap(caption: str, side: int) -> list[str]:
    # Letters are 6 px wide on average. Nobody reads more than the first words.
    lines = [textwrap.wrap(line[:200], side // 6) for line in caption[:400].splitlines()]
    return [part for line in lines for part in line][:_MAX_LINES]


def _heading(rule: str, count: str) -> Image.Image:
    font = _font(bold=True)
    start = 2 * _GAP + round(font.getlength(rule)) + _GAP
    heading = _blank(start + round(_font().getlength(count)) + _GAP, _LINE + _GAP)
    pen = ImageDraw.Draw(heading)
    pen.text((_GAP, _GAP), rule, _INK, font)
    pen.text((start, _GAP), count, _PALE, _font())
    return heading


def _stack(parts: Sequence[Image.Image]) -> Image.Image:
    """Return ``parts`` stacked vertically."""
    sheet = _blank(
        max([part.width for part in parts] or [1]), sum(part.height for part in parts) or 1
    )
    y = 0
    for part in parts:
        sheet.paste(part, (0, y))
        y += part.height
    return sheet


def _png(sheet: Image.Image) -> bytes:
    buffer = io.BytesIO()
    sheet.quantize(_COLOURS, dither=Image.Dither.NONE).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()
