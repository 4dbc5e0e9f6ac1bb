"""Snapshots: the complete state of a training on disk, from which it resumes bit for bit.

Views, order and dropout follow from the seed and the step number. So the step number replaces any
state of random generators.
"""

import hashlib
import io
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from fer_ml.base.errors import FerError
from fer_ml.base.files import readable_os_errors, write_atomic
from fer_ml.base.reading import read_file
from fer_ml.training.archive import first_line, parse_archive
from fer_ml.training.models import State

SNAPSHOT_FILE = "snapshot.pt"
#: No network that is trained here, with its optimiser, comes near this.
MAX_SNAPSHOT = 1 << 36
#: At its end stands the hash of what comes before, so that both are there at once.
HASH_BYTES = 32


@dataclass
class Progress:
    """Progress of a training: steps taken, this epoch's sums, the history, and the best so far.

    ``seen [N] bool`` marks the rows that were trained on.
    """

    step: int = 0
    totals: dict[str, float] = field(default_factory=dict)
    seen: torch.Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.bool))
    history: list[dict[str, Any]] = field(default_factory=list)
    best_score: float = -1.0
    best_epoch: int = -1
    best: State = field(default_factory=dict)


def save_snapshot(folder: Path, key: str, progress: Progress, parts: dict[str, Any]) -> None:
    """Save the state in ``folder``; it replaces the previous snapshot only once it is complete.

    ``key`` identifies the training; ``parts`` are the state dicts of network, optimiser and so
    on.
    """
    snapshot = {
        "schema_version": 1,
        "key": key,
        "step": progress.step,
        "totals": progress.totals,
        "seen": progress.seen,
        "history": json.dumps(progress.history),
        "best_score": progress.best_score,
        "best_epoch": progress.best_epoch,
        "best": progress.best,
        "parts": parts,
    }
    folder.mkdir(parents=True, exist_ok=True)
    # Through a buffer: writing a file itself, torch hides the system's reason when it cannot.
    buffer = io.BytesIO()
    torch.save(snapshot, buffer)
    with readable_os_errors(folder):
        snapshot_bytes = buffer.getvalue()
        write_atomic(
            folder / SNAPSHOT_FILE, snapshot_bytes + hashlib.sha256(snapshot_bytes).digest()
        )


def load_snapshot(folder: Path, key: str) -> tuple[Progress, dict[str, Any]] | None:
    """Load the snapshot in ``folder`` as ``(progress, parts)``; ``None`` if there is none.

    ``FerError`` if it belongs to another training, or cannot be read.
    """
    path = folder / SNAPSHOT_FILE
    if not path.is_file():
        return None
    again = f"remove {path} to start this training from its beginning"
    try:
        data = read_file(path, MAX_SNAPSHOT)
        if hashlib.sha256(data[:-HASH_BYTES]).digest() != data[-HASH_BYTES:]:
            raise ValueError("its bytes are not those that were written")
        snapshot = parse_archive(data[:-HASH_BYTES], path)
        snapshot_key = snapshot["key"]
        progress = Progress(
            step=snapshot["step"],
            totals=snapshot["totals"],
            seen=snapshot["seen"],
            history=json.loads(snapshot["history"]),
            best_score=snapshot["best_score"],
            best_epoch=snapshot["best_epoch"],
            best=snapshot["best"],
        )
    except (FerError, OSError, KeyError, ValueError, TypeError) as error:
        reason = first_line(error)
        raise FerError(
            f"snapshot cannot be read: {reason}", code="damaged-snapshot", where=path, fix=again
        ) from error
    if snapshot_key != key:
        raise FerError(
            f"snapshot is of training {snapshot_key[:12]}, this one is {key[:12]}: "
            "its recipe, seed or rows differ",
            code="snapshot-mismatch",
            where=path,
            fix=again,
        )
    return progress, snapshot["parts"]
