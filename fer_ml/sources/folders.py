"""Images sorted into class folders, with or without split folders above them.

``split_folders``: ``<split>/<class>/<image>``, as AffectNet, the uniform
FER2013, the FER+ repack and the common folder packing of FER2013 come. ``class_folders``:
``<class>/<image>`` without splits.

Every file counts as a sample, whatever its suffix, except hidden ones, those in ``SYSTEM_FILES``,
and notes beside the class folders (``NOTE_SUFFIXES``). What lies at another depth is a fault.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl

from fer_ml.base.errors import FerError
from fer_ml.base.labels import SPLIT_WORDS, WORD_TABLE, LabelTable, split_of_word
from fer_ml.base.reading import stays_inside
from fer_ml.sources import Adapter, listing_schema
from fer_ml.sources._listing import (
    PATH,
    Row,
    RowFault,
    make_listing,
    require_root,
    safe_path,
    shown,
)

SYSTEM_FILES = frozenset({"thumbs.db", "desktop.ini"})
NOTE_SUFFIXES = (".txt", ".md", ".csv", ".json", ".yaml", ".yml", ".cache")


class Folder(NamedTuple):
    """One directory below the root: its path as ``parts``, its files, and other odd entries."""

    parts: tuple[str, ...]
    files: list[str]
    odd: list[str]

    @property
    def prefix(self) -> str:
        """Return the path of the directory, with a trailing ``/`` unless it is the root."""
        return "".join(f"{part}/" for part in self.parts)


def list_split_folders(root: Path, labels: LabelTable) -> pl.DataFrame:
    """Return the listing of a folder of ``<split>/<class>/<image>``."""
    return _list(root, labels, levels=2)


def list_class_folders(root: Path, labels: LabelTable) -> pl.DataFrame:
    """Return the listing of a folder of ``<class>/<image>``; every split is ``unassigned``."""
    return _list(root, labels, levels=1)


def _list(root: Path, labels: LabelTable, levels: int) -> pl.DataFrame:
    root = require_root(root)
    folders = list(walk(root, levels))
    _require_known_folder(root, folders, labels, levels)
    # Each folder is judged once, not once for each of its thousands of files.
    verdicts = make_listing([_judge(folder.parts, labels, levels) for folder in folders])
    files = _files(folders)
    if files.is_empty():
        raise FerError(
            "dataset folder holds no images",
            code="no-images",
            where=root,
            fix="unpack the dataset there",
        )
    usable = pl.col("path_fault").is_null()
    rows = verdicts[files["folder"]].with_columns(files["where"], files["path_fault"])
    return rows.with_columns(
        file=pl.when(usable).then("where"),
        label=pl.when(usable).then("label"),
        excluded=pl.when(usable).then("excluded"),
        fault=pl.coalesce("path_fault", "fault"),
    ).select(list(listing_schema()))


def walk(root: Path, levels: int) -> Iterator[Folder]:
    """Yield every directory below ``root`` that is not hidden.

    Links to directories are followed on the ``levels`` of split and class folders if they stay
    below ``root``; deeper down they could form a loop.
    """
    waiting: list[tuple[str, ...]] = [()]
    while waiting:
        parts = waiting.pop()
        has_images = len(parts) >= levels
        path = "/".join((str(root), *parts))
        files: list[str] = []
        odd: list[str] = []
        try:
            with os.scandir(path) as entries:
                for entry in entries:
                    if entry.is_file():
                        files.append(entry.name)
                    elif not entry.is_dir(follow_symlinks=not has_images) or (
                        entry.is_symlink() and not stays_inside(entry.path, root)
                    ):
                        odd.append(entry.name)
                    elif not entry.name.startswith("."):
                        waiting.append((*parts, entry.name))
        except OSError as error:
            raise FerError(
                f"folder cannot be read: {error.strerror}",
                code="unreadable-folder",
                where=path,
                fix="grant read access",
            ) from error
        yield Folder(parts, _samples(files, has_images), _samples(odd, has_images))


def _samples(names: list[str], has_images: bool) -> list[str]:
    """Return ``names`` without hidden and system files, and without notes outside image folders."""
    names = [name for name in names if name[0] != "." and name.lower() not in SYSTEM_FILES]
    if has_images:
        return names
    return [name for name in names if not name.lower().endswith(NOTE_SUFFIXES)]


def _require_known_folder(
    root: Path, folders: list[Folder], labels: LabelTable, levels: int
) -> None:
    """Raise ``FerError`` for a root one level too high or too low, where every row would fail."""
    folder_names = sorted(folder.parts[0] for folder in folders if len(folder.parts) == 1)
    if levels == 2:
        kind, allowed = "split", ", ".join(SPLIT_WORDS)
        known = any(map(split_of_word, folder_names))
    else:
        kind, allowed = "class", labels.allowed
        known = any(labels(name) != (None, None) for name in folder_names)
    if not known:
        names = ", ".join(map(shown, folder_names[:20])) or "none"
        raise FerError(
            f"no {kind} folder here; folders found: {names}",
            code="unknown-folders",
            where=root,
            allowed=allowed,
            fix=f"point the source at the folder that holds the {kind} folders; links out of it "
            "are not followed",
        )


def _files(folders: list[Folder]) -> pl.DataFrame:
    """Return a sorted frame of all files: ``where``, ``folder`` (index), ``path_fault`` or null."""
    groups = [group for folder in folders for group in (folder.files, folder.odd)]
    counts = [len(group) for group in groups]
    index = np.repeat(np.arange(len(groups)) // 2, counts)
    odd = np.repeat(np.arange(len(groups)) % 2 == 1, counts)
    names = [name for group in groups for name in group]
    prefixes = pl.Series([printable(folder.prefix) for folder in folders])
    where = prefixes[index] + pl.Series(_printable_all(names), dtype=pl.String)
    # What is not UTF-8 became printable by backslashes, and so is not plain.
    suspect = odd | ~where.str.contains(f"^{PATH}$").to_numpy()
    path_faults: list[str | None] = [None] * len(names)
    for at in np.flatnonzero(suspect):
        if odd[at]:
            path_faults[at] = odd_fault(names[at])
        else:
            path_faults[at] = path_fault(folders[index[at]].prefix + names[at])
    files = {"where": where, "folder": index, "path_fault": path_faults}
    return pl.DataFrame(files, schema_overrides={"path_fault": pl.String}).sort("where")


def _printable_all(names: list[str]) -> list[str]:
    try:
        "".join(names).encode()
    except UnicodeEncodeError:
        return [printable(name) for name in names]
    return names


def path_fault(path: str) -> str | None:
    """Return why ``path`` cannot be used in a listing, or ``None``."""
    try:
        path.encode()
        safe_path(path)
    except UnicodeEncodeError:
        return f"bad path: not UTF-8: {shown(path)}"
    except RowFault as fault:
        return str(fault)
    return None


def odd_fault(name: str) -> str:
    """Return the fault of an entry that is neither a regular file nor a folder of the dataset."""
    return f"bad path: not a regular file, or a link out of the dataset: {shown(name)}"


def printable(name: str) -> str:
    """Return ``name`` with bytes that are not UTF-8 escaped, as a listing holds only text."""
    return name.encode(errors="backslashreplace").decode()


def _judge(parts: tuple[str, ...], labels: LabelTable, levels: int) -> Row:
    """Return the row values that a folder's path gives to the files directly inside."""
    row: Row = {"split": "unassigned"}
    *above, word = parts[:levels] if len(parts) >= levels else (*parts, "")
    if word:
        row["native_label"] = printable(word)
    if levels == 2:
        split = above[0] if above else ""
        row["split"] = split_of_word(split) or printable(split) or None
        if split_of_word(split) is None:
            return row | {"fault": f"unknown split: {shown(split)}"}
    if len(parts) < levels:
        return row | {"fault": "bad label: not in a class folder"}
    if len(parts) > levels:
        return row | {"fault": f"bad path: folder {shown(parts[levels])} inside a class folder"}
    label, excluded = labels(word)
    fault = None if label or excluded else f"bad label: {shown(word)}"
    return row | {"label": label, "excluded": excluded, "fault": fault}


def _has_class_folders(root: Path) -> bool:
    return any(WORD_TABLE(path.name) != (None, None) for path in _folders(root))


def _has_split_folders(root: Path) -> bool:
    splits = [path for path in _folders(root) if split_of_word(path.name)]
    return any(
        path.name not in ("images", "labels") for split in splits for path in _folders(split)
    )


def _folders(root: Path) -> Iterator[Path]:
    return (path for path in root.iterdir() if path.is_dir())


ADAPTER = (
    Adapter(
        name="split_folders",
        title="Split folders with class folders (AffectNet, FER2013 uniform, FER+ repack)",
        layout="{train,val,test,...}/<class>/<image>",
        read=list_split_folders,
        fits=_has_split_folders,
        labels=WORD_TABLE,
    ),
    Adapter(
        name="class_folders",
        title="Class folders without splits",
        layout="<class>/<image>",
        read=list_class_folders,
        fits=_has_class_folders,
        labels=WORD_TABLE,
    ),
)
