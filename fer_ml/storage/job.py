"""The arguments of an asset's build function: its recipe, verified inputs and paths."""

import hashlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

from fer_ml.base.errors import FerError
from fer_ml.storage.artifact import Artifact
from fer_ml.storage.looks import looked_before
from fer_ml.storage.record import asset_label
from fer_ml.storage.store import RunFolder, Store

#: Seconds to wait for another process that makes the same asset. After a run is killed, its process
#: lives on for a few seconds.
PATIENCE = 60


Recipe = TypeVar("Recipe", covariant=True)


@dataclass(frozen=True)
class Job(Generic[Recipe]):
    """The arguments of one materialization.

    - ``inputs``: artifacts that passed their gates, by label, in declared order
    - ``paths``: locations outside the store: ``raw/<source>``, ``video``, ``claims``, ``report``
      (its template), and ``plan`` (of the comparisons) when there is one
    - ``device``, ``processes``: the device of a training and its number of processes
    - ``code_version``: the version of the stage's code
    - ``decisions``: choices that a look at evaluation scores could influence
      (``fer_ml.storage.looks``)
    - ``looked_at``: by evaluation set, the day of a look that the ledger lacks, by the profile
    - ``recipe``: the fields of the profile that decide the result, typed as the stage declares them
    - ``recorded``: the recipe as the record keeps it
    """

    asset: str
    partition: str | None
    store: Store
    recipe: Recipe
    inputs: Mapping[str, Artifact]
    paths: Mapping[str, Path]
    device: str = "auto"
    processes: int = 1
    code_version: str = "1"
    recorded: Mapping[str, Any] = field(default_factory=dict)
    decisions: Mapping[str, str] = field(default_factory=dict)
    looked_at: Mapping[str, str] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """The label of the job: ``asset`` or ``asset[partition]``."""
        return asset_label(self.asset, self.partition)

    def input(self, asset: str, partition: str | None = None) -> Artifact:
        """Return one input artifact; ``FerError`` when the stage does not declare it."""
        key = asset_label(asset, partition)
        if key not in self.inputs:
            raise FerError(
                f"{self.label} does not declare the input {key}",
                code="undeclared-input",
                allowed=", ".join(self.inputs),
                fix="add it to the needs of the stage",
            )
        return self.inputs[key]

    def looked_before(self, manifest: str, faces: list[str]) -> dict[str, Any] | None:
        """Return the mark 'looked at before' for numbers on ``faces``, or None if none is due.

        ``faces`` are ids from ``looks.face_ids``, of test rows of ``manifest``.
        ``looks.looked_before`` defines the mark. ``looked_at`` marks a set of its own accord.
        """
        mark = looked_before(self.store.root.parent, faces, self.decisions)
        told = self.looked_at.get(manifest.removesuffix("_manifest"))
        if told is None:
            return mark
        since, decided = (mark["since"], mark["decided"]) if mark else (told, [])
        return {"since": min(told, since), "decided": ["the profile", *decided]}

    def kept(self, run: RunFolder) -> Path:
        """Return a private directory for resumable work, which survives when the process is killed.

        Other inputs, another recipe or another code version give another directory. The directory
        is removed when ``run`` becomes the current artifact, and is locked until then. Raises
        ``FerError`` if another process holds the lock for longer than ``PATIENCE`` s.
        """
        from filelock import FileLock, Timeout  # The demo reads jobs too, and needs no locks.

        home = self.store.unfinished / self.label.replace("[", "_").replace("]", "")
        home.parent.mkdir(parents=True, exist_ok=True)
        try:
            # The lock goes with the process that holds it.
            run.until_current.enter_context(
                FileLock(home.with_name(f".{home.name}.lock"), timeout=PATIENCE)
            )
        except Timeout as error:
            raise FerError(
                f"another process is making {self.label}",
                code="work-in-progress",
                where=home,
                fix="wait for it, or stop it; then start again",
            ) from error
        run.spent.append(home.name)
        inputs = {label: artifact.sha256 for label, artifact in self.inputs.items()}
        text = json.dumps([self.recorded, inputs, self.code_version], sort_keys=True)
        folder = home / hashlib.sha256(text.encode()).hexdigest()[:16]
        for other in home.iterdir() if home.is_dir() else ():
            if other != folder:
                shutil.rmtree(other, ignore_errors=True)
        folder.mkdir(parents=True, exist_ok=True)
        return folder
