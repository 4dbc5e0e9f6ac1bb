"""An artifact root in an object store: the same layout there, and a cache of it on this machine.

A run folder is uploaded when it is whole here: its files, then ``record.json``, then the pointer,
so nothing that can be found there is half there. Until that is done a note below ``.uploads/`` says
so: what it names counts here although it is not there, and the next ``sweep`` uploads it. A run
folder that is not here is downloaded beside its place, held against its record, and renamed.

Pools, caches, drawn data and unfinished trainings stay on their machine.
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
    """The artifact root of a profile, in a folder or in an object store."""
    root = settings.home / profile
    if settings.bucket is None:
        return Store(root, profile)
    return MirroredStore(root, profile, bucket=Bucket(settings.bucket).below(profile))


def stores(settings: Settings) -> list[Store]:
    """The profiles below an artifact root that hold artifacts."""
    local = {path.name for path in settings.home.iterdir()} if settings.home.is_dir() else set()
    remote = set(Bucket(settings.bucket).names()) if settings.bucket else set()
    candidates = (open_store(settings, name) for name in sorted(local | remote))
    return [store for store in candidates if store.runs()]


@dataclass(frozen=True)
class MirroredStore(Store):
    """A ``Store`` whose artifacts are in ``bucket``; ``root`` is the cache."""

    bucket: Bucket = field(kw_only=True)

    @property
    def uploads(self) -> Path:
        """Notes of what is finished here and not yet whole in the bucket."""
        return self.root / ".uploads"

    def open(self, folder: Path) -> Artifact:
        """Read a run folder's record; what the cache lacks is downloaded and verified first."""
        if not self._note(folder).is_file():
            there = self.bucket.list(self._key(folder))
            if (folder / RECORD_FILE).is_file():
                self._refresh(folder, there)
            else:
                self._download(folder, there)
        return super().open(folder)

    def pointers(self, asset: str) -> list[str]:
        """The partitions of an asset that have a current artifact."""
        there = (name.split("/") for name in self.bucket.list(asset))
        noted = (note.partition for note in self._notes() if note.asset == asset)
        names = {parts[0] for parts in there if parts[1:] == [CURRENT_FILE]}
        return sorted(names | {name for name in noted if name})

    def runs(self, asset: str = "", partition: str | None = None) -> list[Path]:
        """Every complete run folder, here or in the bucket."""
        home = self.home(asset, partition) if asset else self.root
        there = (Path(name) for name in self.bucket.list(self._key(home)))
        remote_runs = {
            home / name.parent
            for name in there
            if name.name == RECORD_FILE and (not asset or len(name.parts) == 2)
        }
        return sorted(remote_runs | set(super().runs(asset, partition)))

    def write_receipt(self, artifact: Artifact, receipt: Receipt) -> Path:
        """Put a gate's outcome beside the artifact, here and there."""
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
        """Upload the mark of a purge, and delete there what goes here."""
        if not self._note(artifact.folder).is_file():
            self._note_changed(artifact)
        self._push(self._read_note(self._note(artifact.folder)))

    def fetch_log(self) -> None:
        """Take over the logs of all machines: of purges, and of looks at evaluation sets."""
        private_folder(self.root.parent)
        logs.fetch(self.root.parent, self._above, _LOGS)

    def share_log(self) -> None:
        """Upload this machine's logs of purges and of looks."""
        logs.share(self.root.parent, self._above, _LOGS)

    def sweep(self, now: datetime | None = None) -> int:
        """As of a ``Store``; and upload what waits for it, and clear half uploads away.

        Those of other machines count as half when nothing came for a day.
        """
        self.bucket.check()
        self.fetch_log()
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
        """Note that something beside an artifact changes; its pointer does not."""
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
        """Upload what is not there of a run folder: files, record, and the pointer last of all.

        The pointer stays where another machine moved it meanwhile: what is current is not made
        another one by whoever is later.
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
        """Take over receipts and the mark of a purge; what was purged goes here too."""
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
        """Put a run folder into the cache: whole and as its record says, or not at all."""
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
