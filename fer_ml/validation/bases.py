"""Find the base folders to which the paths of a foreign manifest are relative.

One file may mix paths below the cleaned root, below the project's root, and absolute paths of
another machine. For paths with the same beginning, a few are tried: below each root, with leading
folders removed, and below the folders directly under a root.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

#: Paths that are tried for each beginning, spread evenly over its rows.
TRIED = 8
#: Folders that are cut off a path at most: no data set lies deeper.
DEEPEST = 50
_SUBFOLDERS = 50


@dataclass(frozen=True)
class Base:
    """A base: paths that start with ``start`` lie below ``root`` without ``cut`` leading folders.

    ``root`` is ``None`` when none of the tried paths was found.
    """

    start: str
    root: str | None
    cut: int
    rows: int

    def to_json(self) -> dict[str, object]:
        """Return the base as JSON values, for the report."""
        return {"start": self.start, "root": self.root, "cut": self.cut, "rows": self.rows}


def _slashes(paths: pl.Series) -> pl.Series:
    if not paths.str.contains("\\", literal=True).any():
        return paths
    return paths.str.replace_all("\\", "/", literal=True)


def _start(paths: pl.Series) -> pl.Series:
    """Return the beginning that paths share: the first folder, or all but the file's own folder."""
    first = paths.str.split_exact("/", 1).struct.field("field_0") + "/"
    absolute = paths.str.contains(r"^(?:/|[A-Za-z]:)")
    if not absolute.any():
        return first
    return pl.select(
        pl.when(absolute).then(paths.str.replace(r"[^/]*$", "")).otherwise(first)
    ).to_series()


def find_bases(paths: pl.Series, roots: Sequence[Path]) -> list[Base]:
    """Return the base of each beginning among ``paths``, in the order of appearance."""
    known = _slashes(paths.drop_nulls())
    table = pl.DataFrame({"start": _start(known)}).with_row_index("row")
    bases = []
    for start, rows in table.group_by("start", maintain_order=True).agg("row").iter_rows():
        tried = known.gather(rows[:: max(1, len(rows) // TRIED)][:TRIED]).to_list()
        root, cut = _best(tried, roots)
        bases.append(Base(start, root, cut, len(rows)))
    return bases


def _best(tried: list[str], roots: Sequence[Path]) -> tuple[str | None, int]:
    """Return the root and cut under which most tried paths are files; the first of equals."""
    best: tuple[int, str | None, int] = (0, None, 0)
    for root, cut in _candidates(tried, roots):
        hits = sum(_is_file(root, path, cut) for path in tried)
        if hits > best[0]:
            best = (hits, str(root), cut)
        if hits == len(tried):
            break
    return best[1], best[2]


def _candidates(tried: list[str], roots: Sequence[Path]) -> Iterator[tuple[Path, int]]:
    depth = min(DEEPEST, max(path.count("/") for path in tried))
    for root in roots:
        yield from ((root, cut) for cut in range(depth + 1))
    for root in roots:
        below = sorted(path for path in root.iterdir() if path.is_dir())[:_SUBFOLDERS]
        yield from ((folder, 0) for folder in below)


def _is_file(root: Path, path: str, cut: int) -> bool:
    parts = path.split("/")[cut:]
    # An absolute path starts with an empty part; one that climbs is never a way to a file.
    if not parts or not parts[0] or parts[0][1:2] == ":" or ".." in parts:
        return False
    try:
        return root.joinpath(*parts).is_file()
    except (OSError, ValueError):
        return False


def apply_bases(frame: pl.DataFrame, bases: Sequence[Base]) -> pl.DataFrame:
    """Return ``frame`` with ``image_path`` relative to its root, and the root in ``base``.

    Paths whose base was not found stay unchanged.
    """
    known = [base for base in bases if base.root is not None]
    if not known:
        return frame.with_columns(pl.lit(None, pl.String).alias("base"))
    table = pl.DataFrame(
        {
            "start": [base.start for base in known],
            "base": [base.root for base in known],
            "cut": [base.cut for base in known],
        }
    )
    path = _slashes(frame["image_path"])
    found = pl.DataFrame({"path": path, "start": _start(path)}).join(
        table, on="start", how="left", maintain_order="left"
    )
    if any(base.cut for base in known):
        parts = pl.col("path").str.split("/").list
        path = found.select(parts.slice(pl.col("cut")).list.join("/")).to_series()
    base = found["base"]
    return frame.with_columns(
        pl.when(base.is_not_null()).then(path).otherwise("image_path").alias("image_path"), base
    )
