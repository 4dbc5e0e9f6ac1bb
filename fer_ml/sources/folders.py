"""Images sorted into class folders, with or without split folders above them.

``split_folders``: ``{train,test,val,valid,validation}/<class>/<image>``, as AffectNet, the uniform
FER2013, the FER+ repack and the common folder packing of FER2013 come. ``class_folders``:
``<class>/<image>`` without splits.

Every file counts as a sample, whatever its suffix, except hidden ones, those in ``SYSTEM_FILES``,
and notes beside the class folders (``NOTE_SUFFIXES``). What lies at another depth is a fault.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import polars as pl

from fer_ml.errors import FerError
from fer_ml.labels import label_of_word
from fer_ml.sources import Adapter
from fer_ml.sources._listing import (
    Row,
    RowFault,
    listing_of_columns,
    require_root,
    safe_path,
    shown,
)

SPLITS: dict[str, str] = {
    "train": "train",
    "test": "test",
    "val": "val",
    "valid": "val",
    "validation": "val",
}
SYSTEM_FILES = frozenset({"thumbs.db", "desktop.ini"})
NOTE_SUFFIXES = (".txt", ".md", ".csv", ".json")


class Folder(NamedTuple):
    """One directory below the root: its path as ``parts``, and what it holds but directories."""

    parts: tuple[str, ...]
    files: list[str]
    odd: list[str]


def list_split_folders(root: Path) -> pl.DataFrame:
    """Listing of ``<split>/<class>/<image>``."""
    return _list(root, levels=2)


def list_class_folders(root: Path) -> pl.DataFrame:
    """Listing of ``<class>/<image>``; every split is ``unassigned``."""
    return _list(root, levels=1)


def _list(root: Path, levels: int) -> pl.DataFrame:
    root = require_root(root)
    folders = list(_walk(root, levels))
    _require_known_folder(root, folders, levels)
    columns: dict[str, list[str | None]] = {
        name: []
        for name in ("where", "file", "native_label", "label", "split", "excluded", "fault")
    }
    for folder in folders:
        _add_folder(columns, folder, levels)
    if not columns["where"]:
        raise FerError("dataset folder holds no images", where=root, fix="unpack the dataset there")
    return listing_of_columns(columns).sort("where")


def _walk(root: Path, levels: int) -> Iterator[Folder]:
    """Every directory below ``root``, hidden ones left out.

    Links to directories are listed where split and class folders lie, so that the cleaning can
    judge what is behind them; deeper down they could form a loop.
    """
    waiting: list[tuple[tuple[str, ...], str]] = [((), str(root))]
    while waiting:
        parts, path = waiting.pop()
        folder = Folder(parts, [], [])
        try:
            with os.scandir(path) as entries:
                for entry in entries:
                    if entry.name.startswith("."):
                        continue
                    if entry.is_dir(follow_symlinks=len(parts) < levels):
                        waiting.append(((*parts, entry.name), entry.path))
                    elif not _is_ignored(entry.name, len(parts), levels):
                        (folder.files if entry.is_file() else folder.odd).append(entry.name)
        except OSError as error:
            raise FerError(f"folder cannot be read: {error.strerror}", where=path) from error
        yield folder


def _is_ignored(name: str, depth: int, levels: int) -> bool:
    name = name.lower()
    return name in SYSTEM_FILES or (depth < levels and name.endswith(NOTE_SUFFIXES))


def _require_known_folder(root: Path, folders: list[Folder], levels: int) -> None:
    """Refuse a root one level too high or too low, where every single row would be a fault."""
    found = sorted(folder.parts[0] for folder in folders if len(folder.parts) == 1)
    if levels == 2:
        kind, allowed = "split", ", ".join(SPLITS)
        known = any(name.lower() in SPLITS for name in found)
    else:
        kind, allowed = "class", "folders named after classes, such as Happy or sadness"
        known = any(label_of_word(name) != (None, None) for name in found)
    if not known:
        names = ", ".join(map(shown, found[:20])) or "none"
        raise FerError(
            f"no {kind} folder here; folders found: {names}",
            where=root,
            allowed=allowed,
            fix=f"point the source at the folder that holds the {kind} folders",
        )


def _add_folder(columns: dict[str, list[str | None]], folder: Folder, levels: int) -> None:
    # Judged once for a folder, not once for each of its thousands of files.
    verdict = _judge(folder.parts, levels)
    prefix = "".join(f"{part}/" for part in folder.parts)
    files: list[str | None] = [_printable(prefix + name) for name in (*folder.files, *folder.odd)]
    path_faults = [
        *(_path_fault(prefix + name) for name in folder.files),
        *(f"bad path: not a regular file: {shown(name)}" for name in folder.odd),
    ]
    columns["where"] += files
    for file, path_fault in zip(files, path_faults, strict=True):
        columns["file"].append(None if path_fault else file)
        columns["fault"].append(path_fault or verdict.get("fault"))
        for name in ("label", "excluded"):
            columns[name].append(None if path_fault else verdict.get(name))
    for name in ("native_label", "split"):
        columns[name] += [verdict.get(name)] * len(files)


def _path_fault(path: str) -> str | None:
    try:
        path.encode()
        safe_path(path)
    except UnicodeEncodeError:
        return f"bad path: not UTF-8: {shown(path)}"
    except RowFault as fault:
        return str(fault)
    return None


def _printable(name: str) -> str:
    """``name`` with the bytes that are not UTF-8 escaped, as a listing holds only text."""
    return name.encode(errors="backslashreplace").decode()


def _judge(parts: tuple[str, ...], levels: int) -> Row:
    """What the folders say about the files directly inside."""
    row: Row = {"split": "unassigned"}
    *above, word = parts[:levels] if len(parts) >= levels else (*parts, "")
    if word:
        row["native_label"] = _printable(word)
    if levels == 2:
        split = above[0] if above else ""
        row["split"] = SPLITS.get(split.lower(), _printable(split) or None)
        if split.lower() not in SPLITS:
            return row | {"fault": f"unknown split: {shown(split)}"}
    if len(parts) < levels:
        return row | {"fault": "bad label: not in a class folder"}
    if len(parts) > levels:
        return row | {"fault": f"bad path: folder {shown(parts[levels])} inside a class folder"}
    label, excluded = label_of_word(word)
    fault = None if label or excluded else f"bad label: {shown(word)}"
    return row | {"label": label, "excluded": excluded, "fault": fault}


ADAPTER = (
    Adapter(
        name="split_folders",
        title="Split folders with class folders (AffectNet, FER2013 uniform, FER+ repack)",
        layout="{train,test,val,valid,validation}/<class>/<image>",
        listing=list_split_folders,
    ),
    Adapter(
        name="class_folders",
        title="Class folders without splits",
        layout="<class>/<image>",
        listing=list_class_folders,
    ),
)
