"""The only readers of npy and npz files: numbers, never pickled objects. Needs numpy alone."""

import tokenize
import warnings
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

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
