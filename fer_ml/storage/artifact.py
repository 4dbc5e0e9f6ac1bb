"""A finished run folder: its files, its marks and receipts, and what is demanded of it."""

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from fer_ml.base.errors import FerError
from fer_ml.base.files import write_json
from fer_ml.base.reading import sha256_file
from fer_ml.base.versions import upgraded
from fer_ml.storage.gates import Gate
from fer_ml.storage.record import RECORD_FILE, Input, Receipt, Record, asset_label, content_hash

RECEIPTS = "receipts"
#: In a run folder: something that it rests on was purged. In the artifact root: the log of purges.
PURGED_FILE = "purged.json"


def _always(receipt: Receipt) -> bool:
    return True


@dataclass(frozen=True)
class Demands:
    """What a profile asks of artifacts: the gates of an asset, and which receipts still count.

    Whoever knows the profile knows whether the limits changed since a verdict was given. Without
    ``gates`` nobody knows what is asked: such a store gives nothing to a consumer.
    """

    gates: Callable[[str], tuple[Gate, ...]] | None = None
    counts: Callable[[Receipt], bool] = _always

    def of(self, asset: str) -> tuple[Gate, ...]:
        """The gates of an asset, as far as they are known."""
        return () if self.gates is None else self.gates(asset)

    def rules(self, asset: str) -> tuple[str, ...]:
        """The rules whose receipt a consumer demands, and not failed; ``FerError`` if unknown."""
        if self.gates is None:
            raise FerError(
                f"nothing says which gates {asset} has to pass: this store was opened without them",
                fix="take the store of a pipeline: Pipeline.open(profile).store",
            )
        return tuple(gate.rule for gate in self.gates(asset) if gate.blocking)


def receipt_file(rule: str) -> str:
    """The name of a rule's receipt in ``receipts/``."""
    return f"{rule}.json"


@dataclass(frozen=True)
class Artifact:
    """A complete run folder and its record, with what is demanded of it."""

    folder: Path
    record: Record
    demands: Demands = field(default=Demands(), compare=False)

    @property
    def sha256(self) -> str:
        """The content hash."""
        return self.record.sha256

    @property
    def key(self) -> str:
        """``asset`` or ``asset[partition]``."""
        return asset_label(self.record.asset, self.record.partition)

    def file(self, name: str) -> Path:
        """The path of one of its files; ``FerError`` when the record does not list it."""
        if name not in self.record.files:
            raise FerError(
                f"{self.key} has no file {name!r}",
                where=self.folder,
                allowed=", ".join(self.record.files),
            )
        return self.folder / name

    def read_json(self, name: str) -> Any:
        """Parse one of its JSON files; ``FerError`` for a version that is not read."""
        path = self.file(name)
        held = json.loads(path.read_text(encoding="utf-8"))
        versioned = isinstance(held, dict) and "schema_version" in held
        return upgraded(name, held, path) if versioned else held

    def as_input(self) -> Input:
        """How a downstream record refers to it."""
        return Input(
            asset=self.record.asset, partition=self.record.partition, sha256=self.record.sha256
        )

    def damage(self) -> str | None:
        """What differs between the folder and its record, or ``None`` when every byte is there."""
        for name, entry in self.record.files.items():
            path = self.folder / name
            if path.resolve() != self.folder.resolve() / name:
                return f"{name} is a link: a run folder holds its own bytes"
            if not path.is_file():
                purged = self.mark()
                if name in purged.get("removed", ()):
                    return f"{name} was purged on {purged['at'][:10]}"
                return f"{name} is missing"
            if path.stat().st_size != entry.bytes or sha256_file(path) != entry.sha256:
                return f"{name} differs from its recorded sha256"
        if content_hash(self.record.files) != self.record.sha256:
            return f"{RECORD_FILE} was edited: its content hash does not follow from its files"
        if self.record.seal not in (None, self.record.expected_seal()):
            return f"{RECORD_FILE} was edited: its seal does not follow from its fields"
        return None

    def purged(self) -> str | None:
        """Why it is stale since something that it rests on was purged, or ``None``."""
        at = self.mark().get("at")
        return None if at is None else f"rests on what was purged on {at[:10]}"

    def mark_purged(self, at: str, removed: Iterable[str]) -> None:
        """Note that something it rests on was purged, and which of its files went with it."""
        earlier = self.mark().get("removed", ())
        names = sorted({*earlier, *removed})
        mark = {"schema_version": 1, "at": at, "removed": names}
        write_json(self.folder / PURGED_FILE, mark)

    def mark(self) -> dict[str, Any]:
        """``purged.json``; empty where nothing was purged."""
        path = self.folder / PURGED_FILE
        try:
            return dict(json.loads(path.read_text(encoding="utf-8")))
        except FileNotFoundError:
            return {}
        except ValueError as error:
            raise FerError("not a mark of a purge", where=path) from error

    def receipts(self) -> dict[str, Receipt]:
        """Receipts beside the artifact by rule, of these bytes and of limits that still hold."""
        found = {}
        for path in sorted((self.folder / RECEIPTS).glob("*.json")):
            try:
                receipt = Receipt.model_validate_json(path.read_bytes(), context=path)
            except (ValidationError, IsADirectoryError):
                continue  # An unreadable receipt is no receipt: the gate counts as not judged.
            if self._is_mine(receipt, path) and self.demands.counts(receipt):
                found[receipt.rule] = receipt
        return found

    def _is_mine(self, receipt: Receipt, path: Path) -> bool:
        """Whether a receipt is of these bytes, of this asset, and in the place of its rule."""
        told = (receipt.artifact_sha256, receipt.asset, receipt.partition, path.name)
        record = self.record
        return told == (self.sha256, record.asset, record.partition, receipt_file(receipt.rule))
