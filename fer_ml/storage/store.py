"""The artifact root: run directories, records, pointers to the current ones, and gate receipts.

Layout below ``FER_HOME/<profile>``::

    <asset>[/<partition>]/<time>-<hash>/   a run directory: files; record.json is written last
    <asset>[/<partition>]/<...>/receipts/  one file for each gate that judged these bytes
    <asset>[/<partition>]/current.json     the pointer to the current run directory
    cleaned/                               links to the raw images, one path base for all manifests
    cache/                                 decoded faces; may be deleted at any time
    evidence/                              pages on the claims; may be deleted at any time
    <asset>[/<partition>]/<...>/purged.json  the mark of a purge of one of its inputs
    unfinished/                            trainings that were stopped, with their state
    .partial/                              unfinished run directories, and pointers not yet moved

A run directory appears by one rename when it is complete and on disk, and is never written again.
The steps after the rename are noted before it, so that a process killed in between loses nothing:
``sweep`` does the rest. ``fer_ml.storage.mirror`` keeps the same layout in an object store. The
*content hash* covers the names and bytes of all files except those declared volatile (times,
machine), so an unchanged result has an unchanged hash. This module does not depend on Dagster.
"""

import os
import shutil
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from fer_ml.base.cost import Meter, metered
from fer_ml.base.errors import FerError, first_fault
from fer_ml.base.files import (
    move,
    orphaned,
    owned_name,
    private_folder,
    readable_os_errors,
    sync,
    write_json,
)
from fer_ml.base.names import require_portable
from fer_ml.base.processes import owner
from fer_ml.base.reading import read_file, sha256_file
from fer_ml.storage.artifact import RECEIPTS, Artifact, Demands, receipt_file
from fer_ml.storage.pointer import CURRENT_FILE, RUN_NAME, Follow, Pointer
from fer_ml.storage.record import (
    RECORD_FILE,
    FileEntry,
    Input,
    Receipt,
    Record,
    asset_label,
    content_hash,
    read_record,
)

#: What lies beside the assets below an artifact root.
NO_ASSETS = frozenset(
    {"cleaned", "cache", "drawn", "evidence", "unfinished", ".partial", ".uploads"}
)
#: Folders from an asset's first one down to a run: the rest of its name, a partition's, the run.
DEEPEST = 4


@dataclass
class RunFolder:
    """A run directory while it is being written. ``folder`` becomes visible only when complete.

    Once it is current, ``until_current`` is closed and the ``spent`` directories below
    ``unfinished/`` are removed. If it never becomes current, they stay.
    """

    folder: Path
    until_current: ExitStack = field(default_factory=ExitStack)
    spent: list[str] = field(default_factory=list)
    splits: dict[str, str] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)

    def path(self, name: str) -> Path:
        """Return the path for a new file; its parent directories are created."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def write_json(self, name: str, value: Any) -> None:
        """Write one JSON file."""
        write_json(self.path(name), value)

    def write_text(self, name: str, text: str) -> None:
        """Write one UTF-8 text file."""
        self.path(name).write_text(text, encoding="utf-8", newline="\n")


@dataclass(frozen=True)
class Store:
    """The artifact root of one profile.

    ``looked_since`` (s since 1970): cached inspections of image files before it do not count.
    ``demands`` holds the conditions an artifact must meet before use; without them none may be
    used.
    """

    root: Path
    profile: str
    looked_since: float = 0.0
    demands: Demands = field(default=Demands(), compare=False, kw_only=True)

    @property
    def partial(self) -> Path:
        """The directory of run directories that are being written."""
        return self.root / ".partial"

    @property
    def unfinished(self) -> Path:
        """The directory of resumable work that a stopped process left."""
        return self.root / "unfinished"

    @property
    def probe_cache(self) -> Path:
        """The cache of earlier inspections of image files; may be deleted at any time."""
        return self.root / "cache" / "probe"

    @property
    def near_cache(self) -> Path:
        """The cache of near-identical faces; may be deleted at any time."""
        return self.root / "cache" / "near"

    @property
    def scratch(self) -> Path:
        """The folder for what a stage sorts on disk; below the cache, so it may be deleted too."""
        return self.root / "cache" / "scratch"

    def home(self, asset: str, partition: str | None = None) -> Path:
        """Return the directory that holds the run directories of an asset (partition)."""
        return self.root / asset / partition if partition else self.root / asset

    def current(self, asset: str, partition: str | None = None) -> Artifact | None:
        """Return the current artifact, unverified, or ``None`` when none was made yet."""
        pointer = self._pointer(asset, partition)
        if pointer is None:
            return None
        artifact = self.open(self.home(asset, partition) / pointer.folder)
        named = (pointer.sha256, pointer.seal or artifact.record.seal)
        if named != (artifact.sha256, artifact.record.seal):
            raise FerError(
                f"{CURRENT_FILE} and {RECORD_FILE} name different hashes: one of them was edited",
                code="record-changed",
                where=artifact.folder,
                fix=_restored(asset, partition),
            )
        return artifact

    def _pointer(self, asset: str, partition: str | None) -> Pointer | None:
        path = self.home(asset, partition) / CURRENT_FILE
        try:
            return Pointer.model_validate_json(self._pointer_bytes(path), context=path)
        except FileNotFoundError:
            return None
        except ValidationError as error:
            raise FerError(
                f"{CURRENT_FILE} does not name a run folder: {first_fault(error)}",
                code="invalid-pointer",
                where=path,
                fix=_restored(asset, partition),
            ) from error

    def _pointer_bytes(self, path: Path) -> bytes:
        return read_file(path, root=path.parent)

    def pointers(self, asset: str) -> list[str]:
        """Return the partitions of an asset that have a current artifact, in order."""
        return sorted(path.parent.name for path in self.home(asset).glob(f"*/{CURRENT_FILE}"))

    def runs(self, asset: str = "", partition: str | None = None) -> list[Path]:
        """Return every complete run directory, of one asset or of all, sorted by name."""
        if asset:
            return sorted(p.parent for p in self.home(asset, partition).glob(f"*/{RECORD_FILE}"))
        homes = sorted(self.root.iterdir()) if self.root.is_dir() else []
        kept = (home for home in homes if home.is_dir() and home.name not in NO_ASSETS)
        return [folder for home in kept for folder in sorted(_run_folders(home))]

    def open(self, folder: Path) -> Artifact:
        """Read a run directory's record; ``FerError`` when it belongs to another place.

        The asset, partition and profile in the record must match the directory's place below the
        root.
        """
        return Artifact(folder, self.belonging(read_record(folder), folder), self.demands)

    def belonging(self, record: Record, folder: Path) -> Record:
        """Return ``record`` if it belongs to ``folder``; ``FerError`` otherwise."""
        home = self.home(record.asset, record.partition)
        if folder.parent != home or record.profile != self.profile:
            label = asset_label(record.asset, record.partition)
            raise FerError(
                f"the run folder belongs to another artifact: {label} of profile {record.profile}",
                code="foreign-artifact",
                where=folder,
                allowed=f"an artifact of profile {self.profile} that was made in this folder",
                fix=f"restore the right folder, or remove it with the {CURRENT_FILE} above it and "
                "materialize it again",
            )
        return record

    def all(self, asset: str, partition: str | None = None) -> Iterator[Artifact]:
        """Yield every complete artifact of an asset, newest name first."""
        yield from map(self.open, reversed(self.runs(asset, partition)))

    def every(self) -> Iterator[Artifact]:
        """Yield every complete artifact of every asset."""
        yield from map(self.open, self.runs())

    def faults(self) -> list[str]:
        """Describe layout faults: run directories without a record, pointers that lead nowhere.

        File contents are not read here; they are verified wherever an artifact is used.
        """
        faults = []
        homes = sorted(self.root.iterdir()) if self.root.is_dir() else []
        for home in (h for h in homes if h.is_dir() and h.name not in NO_ASSETS):
            for path in sorted(home.glob(f"**/{CURRENT_FILE}")):
                folder = path.parent
                try:
                    asset, partition = folder.relative_to(self.root).as_posix(), None
                    self.current(asset, partition)
                except FerError as error:
                    faults.append(f"{asset}: {error.what}")
                faults += [
                    f"{asset}/{run.name}: no {RECORD_FILE}"
                    for run in sorted(folder.iterdir())
                    if RUN_NAME.fullmatch(run.name) and not (run / RECORD_FILE).is_file()
                ]
        return faults

    def find(
        self, asset: str, partition: str | None, sha256: str, recipe_sha256: str | None = None
    ) -> Artifact | None:
        """Return the artifact of an asset with this content hash, or ``None``.

        Several recipes may have made the same bytes: ``recipe_sha256`` selects one of them.
        """
        named = f"-{sha256[:8]}-"  # As a folder's name says, so that no other one is looked into.
        runs = reversed([run for run in self.runs(asset, partition) if named in run.name])
        for artifact in map(self.open, runs):
            recipe = recipe_sha256 or artifact.record.recipe_sha256
            if (artifact.sha256, artifact.record.recipe_sha256) == (sha256, recipe):
                return artifact
        return None

    def verified(self, asset: str, partition: str | None = None) -> Artifact:
        """Return the current artifact, every byte verified, without checking its gates."""
        label = asset_label(asset, partition)
        artifact = self.current(asset, partition)
        if artifact is None:
            raise FerError(
                f"{label} has not been made yet",
                code="asset-not-made",
                where=self.root,
                fix=f"materialize {label} first",
            )
        damage = artifact.damage()
        if damage:
            raise FerError(
                f"{label} is damaged: {damage}",
                code="artifact-changed",
                where=artifact.folder,
                fix=f"materialize {label} again",
            )
        return artifact

    def require(self, asset: str, partition: str | None = None) -> Artifact:
        """Return the current artifact, every byte verified and every blocking gate passed.

        Every consumer gets its inputs here. An artifact is refused (``FerError``) if a blocking
        gate failed or has no receipt, however the consumer was started. A receipt that says
        "nothing to judge" is enough.
        """
        label = asset_label(asset, partition)
        artifact = self.verified(asset, partition)
        self.demands.demand(asset)
        if unsealed := artifact.unsealed():
            raise FerError(
                f"{label} {unsealed}",
                code="record-unsealed",
                where=artifact.folder,
                fix=f"materialize {label} again",
            )
        if failed := artifact.failed():
            raise FerError(
                f"{label} {failed}",
                code="gate-failed",
                where=artifact.folder / RECEIPTS,
                fix=f"correct the cause and materialize {label} again",
            )
        if unjudged := artifact.unjudged():
            raise FerError(
                f"{label} {unjudged}",
                code="gate-not-judged",
                where=artifact.folder / RECEIPTS,
                fix="run its checks: fer materialize, or Execute checks in Dagster",
            )
        outdated = artifact.outdated()
        if outdated:
            raise FerError(
                f"{label} was made by another recipe than the profile's current one: {outdated}",
                code="artifact-outdated",
                where=artifact.folder,
                fix=f"materialize {label} again, or restore the recipe that made it",
            )
        return artifact

    @contextmanager
    def begin(
        self,
        asset: str,
        partition: str | None = None,
        *,
        inputs: Iterable[Input] = (),
        recipe: dict[str, Any] | None = None,
        code_version: str = "1",
        run_id: str | None = None,
    ) -> Iterator[RunFolder]:
        """Make a new run directory; on success it becomes current, otherwise it is removed."""
        partial = self.partial / owned_name()
        with readable_os_errors(self.root), metered() as meter:
            private_folder(self.root)
            before = self._pointer(asset, partition)
            partial.mkdir(parents=True)
            run = RunFolder(partial)
            try:
                yield run
                self._commit(
                    run,
                    asset,
                    partition,
                    tuple(inputs),
                    recipe or {},
                    code_version,
                    run_id,
                    meter,
                    before.folder if before else None,
                )
            finally:
                run.until_current.close()
                if partial.exists():  # Else it was renamed, and its note says how to go on.
                    _note_of(partial).unlink(missing_ok=True)
                    shutil.rmtree(partial, ignore_errors=True)

    def _commit(
        self,
        run: RunFolder,
        asset: str,
        partition: str | None,
        inputs: tuple[Input, ...],
        recipe: dict[str, Any],
        code_version: str,
        run_id: str | None,
        meter: Meter,
        before: str | None,
    ) -> None:
        files = {}
        for path in sorted(run.folder.rglob("*")):
            sync(path)
            if path.is_file():
                files[path.relative_to(run.folder).as_posix()] = FileEntry(
                    sha256=sha256_file(path), bytes=path.stat().st_size
                )
        require_portable(files, run.folder)
        now = datetime.now(UTC)
        record = Record(
            asset=asset,
            partition=partition,
            profile=self.profile,
            sha256=content_hash(files),
            files=files,
            inputs=inputs,
            recipe=recipe,
            code_version=code_version,
            run_id=run_id,
            created_at=now.isoformat(timespec="seconds"),
            seconds=meter.seconds,
            splits=run.splits,
            summary={**run.summary, **meter.read()},
        )
        # Read again first: the seal is over what stands in the file.
        record = Record.model_validate_json(record.model_dump_json())
        record = record.model_copy(update={"seal": record.expected_seal()})
        write_json(run.folder / RECORD_FILE, record.model_dump(mode="json"))
        home = self.home(asset, partition)
        home.mkdir(parents=True, exist_ok=True)
        folder = home / f"{now:%Y%m%dT%H%M%SZ}-{record.sha256[:8]}-{uuid.uuid4().hex[:4]}"
        follow = Follow(
            asset=asset,
            partition=partition,
            folder=folder.name,
            sha256=record.sha256,
            seal=record.seal,
            before=before,
            spent=tuple(run.spent),
        )
        note = _note_of(run.folder)
        write_json(note, follow.model_dump(mode="json"))
        move(run.folder, folder)
        sync(home)
        self._follow(follow)
        note.unlink()

    def _follow(self, follow: Follow) -> None:
        """Finish after the rename: move the pointer and remove the spent directories."""
        home = self.home(follow.asset, follow.partition)
        write_json(home / CURRENT_FILE, follow.pointer().model_dump(mode="json"))
        for name in follow.spent:
            shutil.rmtree(self.unfinished / name, ignore_errors=True)

    def _follow_note(self, note: Path) -> None:
        """Finish the noted steps of a process that is gone, unless another process did so since."""
        try:
            follow = Follow.model_validate_json(read_file(note, root=self.partial))
        except ValidationError:
            return
        home = self.home(follow.asset, follow.partition)
        pointer = self._pointer(follow.asset, follow.partition)
        now = pointer.folder if pointer else None
        if (home / follow.folder / RECORD_FILE).is_file() and now in (follow.before, follow.folder):
            self._follow(follow)

    def marked(self, artifact: Artifact) -> None:
        """Handle a new purge mark: called after it was written, before the files are deleted."""

    def fetch_log(self) -> None:
        """Download other machines' logs of purges and looks; a local store does nothing."""

    def share_log(self) -> None:
        """Share the log of purges or looks after a write; a local store does nothing."""

    def write_receipt(self, artifact: Artifact, receipt: Receipt) -> Path:
        """Write a gate's outcome beside the artifact; return the path of the receipt."""
        with readable_os_errors(self.root):
            folder = artifact.folder / RECEIPTS
            folder.mkdir(exist_ok=True)
            path = folder / receipt_file(receipt.rule)
            write_json(path, receipt.model_dump(mode="json"))
        return path

    def sweep(self) -> int:
        """Clean up after processes that ended early; return how many places were cleaned.

        A run directory that was complete but not yet current becomes the current artifact.
        """
        return self._clear(orphaned)

    def sweep_own(self) -> int:
        """Clean up as ``sweep`` does after this process itself, once it was stopped."""
        mine = f"{owner()}-"
        return self._clear(lambda name: name.removeprefix(".").startswith(mine))

    def _clear(self, left: Callable[[str], bool]) -> int:
        swept = 0
        for note in sorted(self.partial.glob("*.json")) if self.partial.is_dir() else ():
            if left(note.stem):
                self._follow_note(note)
                note.unlink(missing_ok=True)
        for folder, folders, files in os.walk(self.root):
            path = Path(folder)
            for name in filter(left, files):
                (path / name).unlink(missing_ok=True)
                swept += 1
            for name in filter(left, folders):
                shutil.rmtree(path / name, ignore_errors=True)
                swept += 1
            # Raw folders are not ours to clear away.
            folders[:] = [n for n in folders if not (path == self.root and n == "drawn")]
        return swept


def _run_folders(home: Path) -> Iterator[Path]:
    """Yield the run directories below ``home``, of assets and partitions, following no link.

    The search goes no deeper, since ``home`` could be a directory without end, such as ``/proc``.
    """
    for top, folders, files in os.walk(home):
        if RECORD_FILE in files:
            yield Path(top)
        if RECORD_FILE in files or len(Path(top).relative_to(home).parts) >= DEEPEST:
            folders.clear()


def _restored(asset: str, partition: str | None) -> str:
    label = asset_label(asset, partition)
    return f"restore the folder of {label}, or remove its {CURRENT_FILE} and materialize it again"


def _note_of(partial: Path) -> Path:
    return partial.with_name(f"{partial.name}.json")
