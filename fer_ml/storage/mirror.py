"""An artifact root in an object store, with the same layout, and its cache on this machine.

A run directory is uploaded once it is complete here: its files, then ``record.json``, then the
pointer, so a run directory that can be found in the bucket is complete. Until then a note below
``.uploads/`` names it. Such an artifact counts as present here, and the next ``sweep`` uploads it.
A run directory that is missing here is downloaded beside its final place, verified against its
record, and renamed.

Image pools, caches, derived data and unfinished trainings stay on their machine.
"""

import hashlib
import shutil
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from fer_ml.base.errors import FerError
from fer_ml.base.files import (
    move,
    owned_name,
    private_folder,
    readable_os_errors,
    sync,
    write_atomic,
    write_json,
)
from fer_ml.base.reading import read_file
from fer_ml.base.settings import Settings
from fer_ml.storage import logs
from fer_ml.storage.artifact import PURGED_FILE, RECEIPTS, Artifact
from fer_ml.storage.looks import LOOKS_FILE
from fer_ml.storage.object_store import Bucket, Entry
from fer_ml.storage.pointer import CURRENT_FILE, RUN_NAME, Follow, Pointer
from fer_ml.storage.record import RECORD_FILE, Receipt, read_record
from fer_ml.storage.store import Store

#: A half upload that nobody went on with for so long is cleared away: its machine may be another.
ABANDONED = timedelta(days=1)
_LOGS = (PURGED_FILE, LOOKS_FILE)


def open_store(settings: Settings, profile: str) -> Store:
    """Open the artifact root of a profile, in a directory or in an object store."""
    root = settings.home / profile
    if settings.bucket is None:
        return Store(root, profile)
    return MirroredStore(root, profile, bucket=Bucket(settings.bucket).below(profile))


def stores(settings: Settings) -> list[Store]:
    """Return a store for each profile below an artifact root that holds artifacts."""
    local = {path.name for path in settings.home.iterdir()} if settings.home.is_dir() else set()
    remote = set(Bucket(settings.bucket).names()) if settings.bucket else set()
    candidates = (open_store(settings, name) for name in sorted(local | remote))
    return [store for store in candidates if store.runs()]


@dataclass(frozen=True)
class MirroredStore(Store):
    """A ``Store`` whose artifacts are in ``bucket``; ``root`` is the local cache."""

    bucket: Bucket = field(kw_only=True)

    @property
    def uploads(self) -> Path:
        """The directory of notes on artifacts finished here but incomplete in the bucket."""
        return self.root / ".uploads"

    def open(self, folder: Path) -> Artifact:
        """Read a run directory's record; what the cache lacks is first downloaded and verified."""
        if not self._note(folder).is_file():
            there = self.bucket.list(self._key(folder))
            if (folder / RECORD_FILE).is_file():
                self._refresh(folder, there)
            else:
                self._download(folder, there)
        return super().open(folder)

    def pointers(self, asset: str) -> list[str]:
        """Return the partitions of an asset that have a current artifact."""
        there = (name.split("/") for name in self.bucket.list(asset))
        noted = (note.partition for note in self._notes() if note.asset == asset)
        names = {parts[0] for parts in there if parts[1:] == [CURRENT_FILE]}
        return sorted(names | {name for name in noted if name})

    def runs(self, asset: str = "", partition: str | None = None) -> list[Path]:
        """Return every complete run directory, here or in the bucket."""
        home = self.home(asset, partition) if asset else self.root
        there = (Path(name) for name in self.bucket.list(self._key(home)))
        remote_runs = {
            home / name.parent
            for name in there
            if name.name == RECORD_FILE and (not asset or len(name.parts) == 2)
        }
        return sorted(remote_runs | set(super().runs(asset, partition)))

    def write_receipt(self, artifact: Artifact, receipt: Receipt) -> Path:
        """Write a gate's outcome beside the artifact, here and in the bucket."""
        note = self._note(artifact.folder)
        waits = note.is_file()  # With all of its folder, for the next sweep.
        if not waits:
            self._note_changed(artifact)
        path = super().write_receipt(artifact, receipt)
        if not waits:
            self.bucket.put({self._key(path): path})
            note.unlink()
        return path

    def marked(self, artifact: Artifact) -> None:
        """Upload a purge mark, and delete in the bucket the files that are deleted here."""
        if not self._note(artifact.folder).is_file():
            self._note_changed(artifact)
        self._push(self._read_note(self._note(artifact.folder)))

    def fetch_log(self) -> None:
        """Download other machines' logs of purges and of looks at evaluation sets."""
        private_folder(self.root.parent)
        logs.fetch(self.root.parent, self._above, _LOGS)

    def share_log(self) -> None:
        """Upload this machine's logs of purges and of looks."""
        logs.share(self.root.parent, self._above, _LOGS)

    def sweep(self, now: datetime | None = None) -> int:
        """Sweep as a ``Store`` does, upload what is pending, and remove unfinished uploads.

        Another machine's upload counts as unfinished when nothing arrived for a day.
        """
        self.bucket.check()
        self.fetch_log()
        self.share_log()
        swept = super().sweep()
        for note in self._notes():
            self._push(note)
        before = (now or datetime.now(UTC)) - ABANDONED
        runs: dict[Path, dict[str, Entry]] = {}
        for name, entry in self.bucket.list().items():
            parts = name.split("/")
            depth = next((i for i, part in enumerate(parts) if RUN_NAME.fullmatch(part)), None)
            if depth is not None:
                folder = self.root.joinpath(*parts[: depth + 1])
                runs.setdefault(folder, {})["/".join(parts[depth + 1 :])] = entry
        for folder, there in runs.items():
            if RECORD_FILE not in there and max(e.modified for e in there.values()) < before:
                self.bucket.delete([f"{self._key(folder)}/{name}" for name in there])
                swept += 1
            elif PURGED_FILE in there and folder.is_dir():
                self._refresh(folder, there)
        return swept + self.bucket.abort_uploads(before)

    @property
    def _above(self) -> Bucket:
        return Bucket(self.bucket.url.rpartition("/")[0])

    def _key(self, path: Path) -> str:
        name = path.relative_to(self.root).as_posix()
        return "" if name == "." else name

    def _note(self, folder: Path) -> Path:
        return self.uploads / f"{folder.name}.json"

    def _notes(self) -> list[Follow]:
        return [self._read_note(path) for path in sorted(self.uploads.glob("*.json"))]

    def _read_note(self, path: Path) -> Follow:
        return Follow.model_validate_json(read_file(path, root=self.uploads))

    def _note_changed(self, artifact: Artifact) -> None:
        """Note that a file beside an artifact changed while its pointer did not."""
        self._write_note(
            Follow(
                asset=artifact.record.asset,
                partition=artifact.record.partition,
                folder=artifact.folder.name,
                sha256=artifact.sha256,
                seal=artifact.record.seal,
                before=artifact.folder.name,
                spent=(),
            )
        )

    def _write_note(self, follow: Follow) -> None:
        self.uploads.mkdir(parents=True, exist_ok=True)
        write_json(self.uploads / f"{follow.folder}.json", follow.model_dump(mode="json"))

    def _pointer_bytes(self, path: Path) -> bytes:
        for note in self._notes():
            if note.before != note.folder and self.home(note.asset, note.partition) == path.parent:
                return super()._pointer_bytes(path)
        data = self.bucket.read(self._key(path))
        if data is None:
            raise FileNotFoundError(path)
        return data

    def _follow(self, follow: Follow) -> None:
        self._write_note(follow)
        super()._follow(follow)
        self._push(follow)

    def _push(self, follow: Follow) -> None:
        """Upload what the bucket lacks of a run directory: files, record, and the pointer last.

        If another machine moved the pointer in the meantime, its pointer is kept.
        """
        home = self.home(follow.asset, follow.partition)
        folder = home / follow.folder
        artifact, key = super().open(folder), self._key(folder)
        there = self.bucket.list(key)
        purged = set(artifact.mark().removed)
        files = {
            name: folder / name
            for name, entry in artifact.record.files.items()
            if name not in purged and (name not in there or there[name].bytes != entry.bytes)
        }
        beside = [*folder.glob(f"{RECEIPTS}/*.json"), *folder.glob(PURGED_FILE)]
        self.bucket.put({f"{key}/{name}": path for name, path in files.items()})
        self.bucket.put({self._key(path): path for path in beside})
        if RECORD_FILE not in there:
            self.bucket.put({f"{key}/{RECORD_FILE}": folder / RECORD_FILE})
        self.bucket.delete([f"{key}/{name}" for name in purged & set(there)])
        pointer = home / CURRENT_FILE
        content = self.bucket.read(self._key(pointer))
        now = Pointer.model_validate_json(content, context=pointer).folder if content else None
        if follow.before != follow.folder and now in (follow.before, follow.folder):
            pointer_text = follow.pointer().model_dump_json(indent=2) + "\n"
            self.bucket.write(self._key(pointer), pointer_text.encode())
        self._note(folder).unlink(missing_ok=True)

    def _refresh(self, folder: Path, there: dict[str, Entry]) -> None:
        """Download receipts and the purge mark, and delete here the files that were purged."""
        for name, entry in there.items():
            path = folder / name
            if name == PURGED_FILE or name.startswith(f"{RECEIPTS}/"):
                if path.is_file() and entry.etag == hashlib.md5(read_file(path)).hexdigest():
                    continue
                data = self.bucket.read(self._key(path))
                if data is not None:
                    path.parent.mkdir(exist_ok=True)
                    write_atomic(path, data)
        if PURGED_FILE in there:
            for name in super().open(folder).mark().removed:
                (folder / name).unlink(missing_ok=True)

    def _download(self, folder: Path, there: dict[str, Entry]) -> None:
        """Download a run directory into the cache: complete and verified, or not at all."""
        key = self._key(folder)
        data = self.bucket.read(f"{key}/{RECORD_FILE}") if RECORD_FILE in there else None
        if data is None:
            return
        partial = self.partial / owned_name()
        with readable_os_errors(self.root):
            private_folder(self.root)
            try:
                names = [n for n in there if n == PURGED_FILE or n.startswith(f"{RECEIPTS}/")]
                partial.mkdir(parents=True)
                (partial / RECORD_FILE).write_bytes(data)
                record = self.belonging(read_record(partial), folder)
                names += [name for name in record.files if name in there]
                self.bucket.get({f"{key}/{name}": partial / name for name in names})
                damage = Artifact(partial, record).damage(purged=False)
                if damage:
                    raise FerError(
                        f"a file in the object store differs from its record: {damage}",
                        code="object-changed",
                        where=f"{self.bucket.url}/{key}",
                        fix=f"upload the right file, or delete {CURRENT_FILE} above it and "
                        "materialize the asset again",
                    )
                for path in partial.rglob("*"):
                    sync(path)
                folder.parent.mkdir(parents=True, exist_ok=True)
                if not folder.exists():
                    move(partial, folder)
                    sync(folder.parent)
            finally:
                shutil.rmtree(partial, ignore_errors=True)
