"""The artifact root: run folders, their records, the current one, and gate receipts.

Layout below ``FER_HOME/<profile>``::

    <asset>[/<partition>]/<time>-<hash>/   a run folder: files, record.json (the marker, last)
    <asset>[/<partition>]/<...>/receipts/  one file for each gate that judged these bytes
    <asset>[/<partition>]/current.json     which run folder is the asset now
    cleaned/                               links to the raw images, one path base for all manifests
    cache/                                 decoded faces; may be deleted at any time
    <asset>[/<partition>]/<...>/purged.json  there when something it rests on was purged
    unfinished/                            trainings that were stopped, with their state
    .partial/                              unfinished run folders, and pointers not yet moved

A run folder appears by one rename when it is complete and on the disk, and is never written again.
What is to follow the rename is noted before it, so that a process killed in between loses nothing:
``sweep`` does the rest. ``fer_ml.storage.mirror`` keeps the same layout in an object store. The
*content hash* covers the names and bytes of its files, except those declared volatile (times,
machine), so that an unchanged result has an unchanged hash. Nothing here knows Dagster.
"""

import json
import os
import re
import shutil
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

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
from fer_ml.base.reading import sha256_file
from fer_ml.base.versions import upgraded
from fer_ml.storage.artifact import RECEIPTS, Artifact, Demands, receipt_file
from fer_ml.storage.record import (
    RECORD_FILE,
    Below,
    FileEntry,
    Input,
    Receipt,
    Record,
    asset_label,
    content_hash,
)

CURRENT_FILE = "current.json"

#: How run folders are called.
RUN_NAME = re.compile(r"\d{8}T\d{6}Z-[0-9a-f]{8}-[0-9a-f]{4}")
#: What lies beside the assets below an artifact root.
NO_ASSETS = frozenset({"cleaned", "cache", "drawn", "unfinished", ".partial", ".uploads"})


@dataclass
class RunFolder:
    """A run folder while it is being written. ``folder`` becomes visible only when complete.

    Once it is the current one, ``until_current`` is closed and the folders ``spent`` below
    ``unfinished/`` are removed; when it does not come to that, nothing of ``spent`` is touched.
    """

    folder: Path
    until_current: ExitStack = field(default_factory=ExitStack)
    spent: list[str] = field(default_factory=list)
    splits: dict[str, str] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)

    def path(self, name: str) -> Path:
        """The path for a new file; parents are made."""
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

    ``looked_since`` (s since 1970): looks at image files before it do not count. ``demands`` says
    what is asked of an artifact before anything is computed from it; without them, nothing is.
    """

    root: Path
    profile: str
    looked_since: float = 0.0
    demands: Demands = field(default=Demands(), compare=False, kw_only=True)

    @property
    def partial(self) -> Path:
        """Run folders that are being written."""
        return self.root / ".partial"

    @property
    def unfinished(self) -> Path:
        """Work that a stopped process left to go on with."""
        return self.root / "unfinished"

    @property
    def probe_cache(self) -> Path:
        """What earlier looks at image files found; may be deleted at any time."""
        return self.root / "cache" / "probe"

    @property
    def near_cache(self) -> Path:
        """Which faces were found to be near-identical; may be deleted at any time."""
        return self.root / "cache" / "near"

    def home(self, asset: str, partition: str | None = None) -> Path:
        """The folder that holds the run folders of an asset (partition)."""
        return self.root / asset / partition if partition else self.root / asset

    def current(self, asset: str, partition: str | None = None) -> Artifact | None:
        """The current artifact, unverified, or ``None`` when nothing was made yet."""
        held = self._pointer(asset, partition)
        return None if held is None else self.open(self.home(asset, partition) / held["folder"])

    def current_hash(self, asset: str, partition: str | None = None) -> str | None:
        """The content hash that ``current.json`` names."""
        held = self._pointer(asset, partition)
        return None if held is None else held.get("sha256")

    def _pointer(self, asset: str, partition: str | None) -> dict[str, str] | None:
        path = self.home(asset, partition) / CURRENT_FILE
        try:
            held = json.loads(self._pointer_bytes(path).decode())
            name = held["folder"]
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise FerError("not a pointer to a run folder", where=path) from error
        if not isinstance(name, str) or Path(name).name != name:
            raise FerError("not a pointer to a run folder", where=path)
        return upgraded(CURRENT_FILE, dict(held), path)

    def _pointer_bytes(self, path: Path) -> bytes:
        return path.read_bytes()

    def pointers(self, asset: str) -> list[str]:
        """The partitions of an asset that have a current artifact, in order."""
        return sorted(path.parent.name for path in self.home(asset).glob(f"*/{CURRENT_FILE}"))

    def runs(self, asset: str = "", partition: str | None = None) -> list[Path]:
        """Every complete run folder, of an asset or of all, in the order of their names."""
        if asset:
            return sorted(p.parent for p in self.home(asset, partition).glob(f"*/{RECORD_FILE}"))
        homes = sorted(self.root.iterdir()) if self.root.is_dir() else []
        return [
            path.parent
            for home in homes
            if home.is_dir() and home.name not in NO_ASSETS
            for path in sorted(home.glob(f"**/{RECORD_FILE}"))
        ]

    def open(self, folder: Path) -> Artifact:
        """Read a run folder's record."""
        path = folder / RECORD_FILE
        try:
            record = Record.model_validate_json(path.read_bytes(), context=path)
            return Artifact(folder, record, self.demands)
        except OSError as error:
            raise FerError(
                "no run folder here", where=folder, fix="materialize the asset again"
            ) from error
        except ValidationError as error:
            raise FerError(f"record cannot be read: {first_fault(error)}", where=path) from error

    def all(self, asset: str, partition: str | None = None) -> Iterator[Artifact]:
        """Every complete run folder of an asset, newest name first."""
        yield from map(self.open, reversed(self.runs(asset, partition)))

    def every(self) -> Iterator[Artifact]:
        """Every complete run folder of every asset."""
        yield from map(self.open, self.runs())

    def torn(self) -> list[str]:
        """What no run leaves: run folders without a record, and pointers that lead nowhere.

        Bytes are not read: whether they are those of the record is asked wherever they are used.
        """
        found = []
        homes = sorted(self.root.iterdir()) if self.root.is_dir() else []
        for home in (h for h in homes if h.is_dir() and h.name not in NO_ASSETS):
            for path in sorted(home.glob(f"**/{CURRENT_FILE}")):
                here = path.parent
                try:
                    asset, partition = here.relative_to(self.root).as_posix(), None
                    self.current(asset, partition)
                except FerError as error:
                    found.append(f"{asset}: {error.what}")
                found += [
                    f"{asset}/{run.name}: no {RECORD_FILE}"
                    for run in sorted(here.iterdir())
                    if RUN_NAME.fullmatch(run.name) and not (run / RECORD_FILE).is_file()
                ]
        return found

    def find(self, asset: str, partition: str | None, sha256: str) -> Artifact | None:
        """The run folder of an asset with this content hash, or ``None``."""
        named = f"-{sha256[:8]}-"  # As a folder's name says, so that no other one is looked into.
        runs = reversed([run for run in self.runs(asset, partition) if named in run.name])
        return next((a for a in map(self.open, runs) if a.sha256 == sha256), None)

    def verified(self, asset: str, partition: str | None = None) -> Artifact:
        """The current artifact with every byte verified, for who judges it: no gate is asked."""
        label = asset_label(asset, partition)
        artifact = self.current(asset, partition)
        if artifact is None:
            raise FerError(
                f"{label} has not been made yet", where=self.root, fix=f"materialize {label} first"
            )
        damage = artifact.damage()
        if damage:
            raise FerError(
                f"{label} is damaged: {damage}",
                where=artifact.folder,
                fix=f"materialize {label} again; nothing is computed from changed bytes",
            )
        return artifact

    def require(self, asset: str, partition: str | None = None) -> Artifact:
        """The current artifact with every byte verified, and no blocking gate failed or silent.

        This is the gate: whoever consumes an artifact gets it here, and bytes without a receipt
        that passed, or says that there was nothing to judge, are refused however the consumer was
        started.
        """
        label = asset_label(asset, partition)
        artifact = self.verified(asset, partition)
        receipts = artifact.receipts()
        for rule in self.demands.rules(asset):
            receipt = receipts.get(rule)
            if receipt is None:
                raise FerError(
                    f"{label} has no receipt of gate '{rule}' for its bytes {artifact.sha256[:12]} "
                    "and today's limits",
                    where=artifact.folder / RECEIPTS,
                    fix=f"run the checks of {label} (Dagster: Execute checks; or fer materialize)",
                )
            if receipt.passed is False:
                raise FerError(
                    f"{label} failed gate '{rule}': {receipt.value} (limit {receipt.limit}). "
                    f"{receipt.detail}",
                    where=artifact.folder / RECEIPTS,
                    fix=f"mend {label} and materialize it again",
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
        """Make a new run folder; on success it becomes the current artifact, else it is removed."""
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
                    before["folder"] if before else None,
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
            before=before,
            spent=tuple(run.spent),
        )
        note = _note_of(run.folder)
        write_json(note, follow.model_dump(mode="json"))
        move(run.folder, folder)
        sync(home)
        self._follow(follow)
        note.unlink()

    def _follow(self, follow: "Follow") -> None:
        """What comes after the rename: it is the current one, and what it came from is spent."""
        home = self.home(follow.asset, follow.partition)
        write_json(home / CURRENT_FILE, follow.pointer())
        for name in follow.spent:
            shutil.rmtree(self.unfinished / name, ignore_errors=True)

    def _follow_note(self, note: Path) -> None:
        """Do what a process that is gone left to do; another one may have gone further since."""
        try:
            follow = Follow.model_validate_json(note.read_bytes())
        except ValidationError:
            return
        home = self.home(follow.asset, follow.partition)
        held = self._pointer(follow.asset, follow.partition)
        now = held["folder"] if held else None
        if (home / follow.folder / RECORD_FILE).is_file() and now in (follow.before, follow.folder):
            self._follow(follow)

    def marked(self, artifact: Artifact) -> None:
        """Called when a mark of a purge was written beside an artifact, before its files go."""

    def fetch_log(self) -> None:
        """Take over the log of purges where other machines write it too."""

    def share_log(self) -> None:
        """Called when the log of purges was written."""

    def write_receipt(self, artifact: Artifact, receipt: Receipt) -> Path:
        """Put a gate's outcome beside the artifact; returns its file."""
        with readable_os_errors(self.root):
            folder = artifact.folder / RECEIPTS
            folder.mkdir(exist_ok=True)
            path = folder / receipt_file(receipt.rule)
            write_json(path, receipt.model_dump(mode="json"))
        return path

    def sweep(self) -> int:
        """Clear away what processes that are gone left half-written; returns how many places.

        A run folder that was complete and not yet the current one becomes it.
        """
        return self._clear(orphaned)

    def sweep_own(self) -> int:
        """The same of this process, which was stopped and writes nothing any more."""
        mine = f"{owner()}-"
        return self._clear(lambda name: name.removeprefix(".").startswith(mine))

    def _clear(self, left: Callable[[str], bool]) -> int:
        swept = 0
        for note in sorted(self.partial.glob("*.json")) if self.partial.is_dir() else ():
            if left(note.stem):
                self._follow_note(note)
                note.unlink(missing_ok=True)
        for folder, folders, files in os.walk(self.root):
            here = Path(folder)
            for name in filter(left, files):
                (here / name).unlink(missing_ok=True)
                swept += 1
            for name in filter(left, folders):
                shutil.rmtree(here / name, ignore_errors=True)
                swept += 1
            # Raw folders are not ours to clear away.
            folders[:] = [n for n in folders if not (here == self.root and n == "drawn")]
        return swept


def _note_of(partial: Path) -> Path:
    return partial.with_name(f"{partial.name}.json")


class Follow(BaseModel):
    """What is to be done once a run folder has been renamed; names, never paths."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    asset: Below
    partition: Below | None
    folder: Below
    sha256: str
    before: str | None
    spent: tuple[Below, ...]

    def pointer(self) -> dict[str, Any]:
        """What ``current.json`` holds."""
        return {"schema_version": 1, "folder": self.folder, "sha256": self.sha256}
