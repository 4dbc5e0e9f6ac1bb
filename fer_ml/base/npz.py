"""The only readers of npy and npz files: numbers, never pickled objects. Needs numpy alone."""

import tokenize
import warnings
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.format import open_memmap

from fer_ml.base.errors import FerError
from fer_ml.base.reading import regular

#: Numbers that were measured hardly shrink; what unpacks to more than this many times its size and
#: ``FREE`` bytes is no result.
MAX_RATIO = 50
FREE = 1 << 20


def read_npy(path: Path) -> np.ndarray:
    """Memory-map the array of an npy file; ``FerError`` if the file is damaged or too short."""
    with _damage_as_fer_error(path):
        return open_memmap(regular(path), mode="r")


class Stacked:
    """Arrays ``[n, ...]`` of one shape and type, of which rows are read as if they were one array.

    Rows are copied when they are asked for, so memory-mapped parts stay on the disk. ``ValueError``
    if shapes or types differ.
    """

    def __init__(self, parts: Sequence[np.ndarray]) -> None:
        self._parts = parts
        self._ends = np.cumsum([len(part) for part in parts])
        self.dtype = parts[0].dtype
        self.shape: tuple[int, ...] = (int(self._ends[-1]), *parts[0].shape[1:])
        if any((part.dtype, part.shape[1:]) != (self.dtype, self.shape[1:]) for part in parts):
            raise ValueError("the arrays differ in type or shape")

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key: Any) -> np.ndarray:
        """Return the rows that an index, a slice or an array of indices from 0 on asks for."""
        if isinstance(key, slice):
            key = np.arange(*key.indices(len(self)))
        rows = np.atleast_1d(key)
        if rows.size and not (rows.min() >= 0 and rows.max() < len(self)):
            raise IndexError(f"a row outside 0 to {len(self) - 1:,}")
        found = np.empty((len(rows), *self.shape[1:]), self.dtype)
        part = np.searchsorted(self._ends, rows, side="right")
        for index in np.unique(part):
            mask = part == index
            start = self._ends[index] - len(self._parts[index])
            found[mask] = self._parts[index][rows[mask] - start]
        return found if np.ndim(key) else np.asarray(found[0])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self[:], dtype)


def stacked(parts: Sequence[np.ndarray]) -> np.ndarray | Stacked:
    """Return the only array of ``parts``, or ``Stacked``."""
    return parts[0] if len(parts) == 1 else Stacked(parts)


def read_npz(path: Path, *needed: str) -> dict[str, np.ndarray]:
    """Read every array of an npz file, by name; nothing is unpickled.

    ``FerError`` when the file is damaged, holds objects, lacks one of the arrays ``needed``, or
    would unpack to far more than its size.
    """
    with _damage_as_fer_error(path):
        limit = MAX_RATIO * regular(path).stat().st_size + FREE
        with zipfile.ZipFile(regular(path)) as archive:
            size = sum(entry.file_size for entry in archive.infolist())
        if size > limit:
            raise FerError(
                f"{path.name} unpacks to {size:,} bytes",
                code="archive-too-large",
                where=path,
                allowed=f"at most {limit:,}",
                fix="copy it again from where it was made",
            )
        with np.load(regular(path), allow_pickle=False) as npz:
            arrays = {name: npz[name] for name in npz.files}
    if missing := [name for name in needed if name not in arrays]:
        raise FerError(
            f"{path.name} lacks {', '.join(missing)}",
            code="missing-array",
            where=path,
            allowed=", ".join(needed),
        )
    return arrays


@contextmanager
def _damage_as_fer_error(path: Path) -> Iterator[None]:
    """Raise what numpy and zipfile raise for an invalid archive or array as ``FerError``."""
    try:
        with warnings.catch_warnings():
            # Of a header that is not quite one, numpy warns and goes on.
            warnings.simplefilter("error")
            yield
    except (
        OSError,
        ValueError,
        KeyError,
        Warning,
        TypeError,
        EOFError,
        RuntimeError,
        MemoryError,
        OverflowError,
        SyntaxError,
        tokenize.TokenError,
        zipfile.BadZipFile,
        zlib.error,
    ) as error:
        raise FerError(
            f"{path.name} cannot be read: {str(error)[:200] or type(error).__name__}",
            code="damaged-npz",
            where=path,
            allowed="arrays of numbers, without pickled objects",
            fix="copy it again from where it was made",
        ) from error
