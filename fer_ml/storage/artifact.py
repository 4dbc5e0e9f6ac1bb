"""A finished run folder: its files, its marks and receipts, and what is demanded of it."""

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, ValidationError

from fer_ml.base.errors import FerError, first_fault
from fer_ml.base.files import write_json
from fer_ml.base.plain import Plain
from fer_ml.base.reading import Refused, read_file, read_json, sha256_file
from fer_ml.base.versions import known_version, upgraded
from fer_ml.storage.gates import Gate
from fer_ml.storage.record import (
    RECORD_FILE,
    Below,
    Input,
    Receipt,
    Record,
    Time,
    asset_label,
    content_hash,
)

RECEIPTS = "receipts"
#: In a run folder: something that it rests on was purged. In the artifact root: the log of purges.
PURGED_FILE = "purged.json"


def _always(receipt: Receipt) -> bool:
    return True


def _any_recipe(asset: str, partition: str | None) -> dict[str, Any] | None:
    return None


@dataclass(frozen=True)
class Demands:
    """What a profile asks of artifacts: their gates, which receipts still count, and the recipe.

    Whoever knows the profile knows whether the limits changed since a verdict was given, and by
    which ``recipe`` an asset is made today (``None``: it says nothing). Without ``gates`` nobody
    knows what is asked: such a store gives nothing to a consumer. ``whole`` says that every file of
    a record is there; exported evidence leaves out some.
    """

    gates: Callable[[str], tuple[Gate, ...]] | None = None
    counts: Callable[[Receipt], bool] = _always
    whole: bool = True
    recipe: Callable[[str, str | None], dict[str, Any] | None] = _any_recipe

    def of(self, asset: str) -> tuple[Gate, ...]:
        """The gates of an asset, as far as they are known."""
        return () if self.gates is None else self.gates(asset)

    def demand(self, asset: str) -> None:
        """``FerError`` if nobody knows the gates of an asset."""
        if self.gates is None:
            raise FerError(
                f"this store was opened without gates, so it does not know which gates {asset} "
                "has to pass",
                code="store-without-gates",
                fix="take the store of a pipeline: Pipeline.open(profile).store",
            )


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
                code="unknown-file",
                where=self.folder,
                allowed=", ".join(self.record.files),
            )
        return self.folder / name

    def read_json(self, name: str) -> Any:
        """Parse one of its JSON files; ``FerError`` for a version that is not read."""
        path = self.file(name)
        document = read_json(path, root=self.folder)
        versioned = isinstance(document, dict) and "schema_version" in document
        return upgraded(name, document, path) if versioned else document

    def as_input(self) -> Input:
        """How a downstream record refers to it."""
        return Input(
            asset=self.record.asset,
            partition=self.record.partition,
            sha256=self.record.sha256,
            recipe_sha256=self.record.recipe_sha256,
        )

    def damage(self, *, purged: bool = True) -> str | None:
        """What differs between the folder and its record, or ``None`` when every byte is there.

        Without ``purged``, what a purge took counts as there.
        """
        removed = self.mark().removed
        for name, entry in self.record.files.items():
            path = self.folder / name
            if Path(os.path.realpath(path)) != Path(os.path.realpath(self.folder), name):
                return f"{name} is a link: a run folder holds its own bytes"
            if not path.is_file():
                if name not in removed and self.demands.whole:
                    return f"{name} is missing"
                if name not in removed:
                    continue
                if purged:
                    return f"{name} was purged on {self.mark().at[:10]}"
                continue
            if path.stat().st_size != entry.bytes or sha256_file(path) != entry.sha256:
                return f"{name} differs from its recorded sha256"
        if content_hash(self.record.files) != self.record.sha256:
            return f"{RECORD_FILE} was edited: its content hash does not follow from its files"
        if self.record.seal not in (None, self.record.expected_seal()):
            return f"{RECORD_FILE} was edited: its seal does not follow from its fields"
        return None

    def left_out(self) -> list[str]:
        """Its files that are not here and that no purge took."""
        gone = self.mark().removed
        return [n for n in self.record.files if n not in gone and not (self.folder / n).is_file()]

    def purged(self) -> str | None:
        """Why it is stale since something that it rests on was purged, or ``None``."""
        at = self.mark().at
        return f"rests on what was purged on {at[:10]}" if at else None

    def unsealed(self) -> str | None:
        """Why nobody can say that its record is as it was written, or ``None``.

        It is of a version without seals: its bytes are read, and nothing is computed from it.
        """
        if self.record.seal is not None:
            return None
        return f"has a {RECORD_FILE} without a seal: an earlier version made it, or it was edited"

    def outdated(self) -> str | None:
        """Why today it would be made in another way, or ``None``."""
        try:
            today = self.demands.recipe(self.record.asset, self.record.partition)
        except FerError as error:  # A file that decides it is gone.
            return f"cannot be made as it was: {error.what}"
        return None if today in (None, self.record.recipe) else "its recipe changed"

    def failed(self) -> str | None:
        """Which gate it failed, and how; ``None`` when it failed none.

        Where nothing says which gates there are, those with a receipt count.
        """
        for rule, blocks, receipt in self._verdicts():
            # Whether it blocks may be up to the profile, which the receipt knew.
            if receipt is not None and receipt.passed is False and (blocks or receipt.blocking):
                found = f"{receipt.value} (limit {receipt.limit}). {receipt.detail}"
                return f"failed gate '{rule}': {found}".rstrip()
        return None

    def unjudged(self) -> str | None:
        """Which gate has still to judge it before others may use it, or ``None``."""
        for rule, blocks, receipt in self._verdicts():
            if receipt is None and blocks:
                return (
                    f"has no verdict of gate '{rule}' for its bytes {self.sha256[:12]} and the "
                    "current limits"
                )
        return None

    def _verdicts(self) -> list[tuple[str, bool, Receipt | None]]:
        receipts = self.receipts()
        gates = {gate.rule: gate.blocking for gate in self.demands.of(self.record.asset)}
        if self.demands.gates is None:
            gates = dict.fromkeys(receipts, False)
        return [(rule, blocks, receipts.get(rule)) for rule, blocks in gates.items()]

    def mark_purged(self, at: str, removed: Iterable[str]) -> None:
        """Note that something it rests on was purged, and which of its files went with it."""
        mark = Mark(at=at, removed=tuple(sorted({*self.mark().removed, *removed})))
        write_json(self.folder / PURGED_FILE, mark.model_dump(mode="json"))

    def mark(self) -> "Mark":
        """``purged.json``; an empty one where nothing was purged."""
        path = self.folder / PURGED_FILE
        try:
            return Mark.model_validate_json(read_file(path, root=self.folder), context=path)
        except FileNotFoundError:
            return Mark()
        except ValidationError as error:
            raise FerError(
                f"the note of what was purged is invalid: {first_fault(error)}",
                code="invalid-purge-mark",
                where=path,
                fix="restore the file from a backup, or materialize the asset again",
            ) from error

    def receipts(self) -> dict[str, Receipt]:
        """Receipts beside the artifact by rule, of these bytes and of limits that still hold."""
        by_rule = {}
        for path in sorted((self.folder / RECEIPTS).glob("*.json")):
            try:
                data = read_file(path, root=self.folder)
                receipt = Receipt.model_validate_json(data, context=path)
            except (ValidationError, Refused, FileNotFoundError):
                continue  # An unreadable receipt is no receipt: the gate counts as not judged.
            if self._is_mine(receipt, path) and self.demands.counts(receipt):
                by_rule[receipt.rule] = receipt
        return by_rule

    def _is_mine(self, receipt: Receipt, path: Path) -> bool:
        """Whether a receipt is of these bytes, of this record, and in the place of its rule."""
        identity = (receipt.artifact_sha256, receipt.asset, receipt.partition, path.name)
        record = self.record
        mine = (self.sha256, record.asset, record.partition, receipt_file(receipt.rule))
        return identity == mine and receipt.seal in (None, record.seal)


class Mark(Plain):
    """``purged.json`` of a run folder: when what it rests on was purged, and which files went."""

    schema_version: Annotated[int, AfterValidator(known_version)] = 1
    at: Time | Literal[""] = ""
    removed: tuple[Below, ...] = ()
