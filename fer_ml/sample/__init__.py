"""Drawn sample data: faces, seven raw sources with planted faults, and a short film.

The sample lets the whole platform run end to end on any machine, without a download or a licence.
The drawing code is imported only when it draws, since each run checks for the sample.
"""

import shutil
from contextlib import suppress
from pathlib import Path

from filelock import FileLock

from fer_ml.base.errors import FerError
from fer_ml.base.files import move
from fer_ml.base.reading import read_json

#: Raise this when anything that is drawn changes: an older sample on disk is then drawn afresh.
DRAWING_VERSION = 3
TRUTH_SCHEMA = 1


def ensure_sample(root: Path, seed: int) -> Path:
    """Draw the sample into ``root`` unless it is there already with this seed; return ``root``.

    ``root`` then holds ``raw/<source>/...``, ``video/demo.avi`` with ``video/demo_truth.csv``, and
    ``truth.json``. Several processes may call this at once: one draws, the others wait. An older
    sample is replaced only when the new one is complete; a folder that is no sample is refused.
    """
    root = root.absolute()
    # Without the lock another process may be putting it in its place: only a yes counts.
    with suppress(FerError, OSError):
        if _is_current(root, seed):
            return root
    root.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(root.with_name(f".{root.name}.lock")):
        if not _is_current(root, seed):
            _replace(root, seed)
    return root


def _is_current(root: Path, seed: int) -> bool:
    truth = root / "truth.json"
    if not truth.exists():
        if root.exists() and any(root.iterdir()):
            raise FerError(
                "this folder holds something other than a drawn sample",
                code="folder-not-empty",
                where=root,
                fix="name an empty or new folder for the sample",
            )
        return False
    try:
        description = read_json(truth)
        made = (description["schema"], description["drawing_version"], description["seed"])
    except (FerError, KeyError, TypeError) as error:
        reason = error.what if isinstance(error, FerError) else repr(error)
        raise FerError(
            f"the sample's description cannot be read: {reason}",
            code="damaged-sample",
            where=truth,
            fix="delete the folder of the sample; it is drawn again",
        ) from error
    return made == (TRUTH_SCHEMA, DRAWING_VERSION, seed)


def _replace(root: Path, seed: int) -> None:
    """Draw into a temporary folder beside ``root``, then rename the result to ``root``."""
    from fer_ml.sample.drawing import draw_sample

    drawing, old = (root.with_name(f".{root.name}.{word}") for word in ("drawing", "old"))
    for leftover in (drawing, old):
        shutil.rmtree(leftover, ignore_errors=True)
    try:
        draw_sample(drawing, seed)
        if root.exists():
            move(root, old)
        move(drawing, root)
    finally:
        shutil.rmtree(drawing, ignore_errors=True)
    shutil.rmtree(old, ignore_errors=True)
