"""Finished run directories: files, purge marks, gate receipts, and the checks before use."""

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
    """The conditions a profile sets for its artifacts: gates, valid receipts, the current recipe.

    They come from the profile, which knows whether a limit changed after a receipt was written.
    ``recipe`` gives the recipe by which an asset would be made today; ``None`` skips that check. A
    store without ``gates`` cannot hand artifacts to a consumer, because the conditions are unknown.
    ``whole`` says that every file of a record must be present; exported evidence omits some.
    """

    gates: Callable[[str], tuple[Gate, ...]] | None = None
    counts: Callable[[Receipt], bool] = _always
    whole: bool = True
    recipe: Callable[[str, str | None], dict[str, Any] | None] = _any_recipe

    def of(self, asset: str) -> tuple[Gate, ...]:
        """Return the gates of an asset; none when the gates are unknown."""
        return () if self.gates is None else self.gates(asset)

    def demand(self, asset: str) -> None:
        """Raise ``FerError`` if the gates of an asset are unknown."""
        if self.gates is None:
            raise FerError(
                f"this store was opened without gates, so it does not know which gates {asset} "
                "has to pass",
                code="store-without-gates",
                fix="take the store of a pipeline: Pipeline.open(profile).store",
            )


def receipt_file(rule: str) -> str:
    """Return the file name of a gate's receipt in ``receipts/``; ``rule`` is the gate's name."""
    return f"{rule}.json"


@dataclass(frozen=True)
class Artifact:
    """A complete run directory with its record and the conditions (``Demands``) for its use."""

    folder: Path
    record: Record
    demands: Demands = field(default=Demands(), compare=False)

    @property
    def sha256(self) -> str:
        """The content hash of the artifact."""
        return self.record.sha256

    @property
    def key(self) -> str:
        """The label of the artifact: ``asset`` or ``asset[partition]``."""
        return asset_label(self.record.asset, self.record.partition)

    def file(self, name: str) -> Path:
        """Return the path of one file; ``FerError`` when the record does not list it."""
        if name not in self.record.files:
            raise FerError(
                f"{self.key} has no file {name!r}",
                code="unknown-file",
                where=self.folder,
                allowed=", ".join(self.record.files),
            )
        return self.folder / name

    def read_json(self, name: str) -> Any:
        """Parse one JSON file of the artifact; ``FerError`` for an unsupported format version."""
        path = self.file(name)
        document = read_json(path, root=self.folder)
        versioned = isinstance(document, dict) and "schema_version" in document
        return upgraded(name, document, path) if versioned else document

    def as_input(self) -> Input:
        """Return the entry by which a downstream record refers to this artifact."""
        return Input(
            asset=self.record.asset,
            partition=self.record.partition,
            sha256=self.record.sha256,
            recipe_sha256=self.record.recipe_sha256,
        )

    def damage(self, *, purged: bool = True) -> str | None:
        """Describe how the directory differs from its record; ``None`` when every byte matches.

        With ``purged=False`` files that a purge removed count as present.
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
        """Return the files in the record that are missing here although no purge removed them."""
        gone = self.mark().removed
        return [n for n in self.record.files if n not in gone and not (self.folder / n).is_file()]

    def purged(self) -> str | None:
        """Say why the artifact is stale after a purge of one of its inputs; else ``None``."""
        at = self.mark().at
        return f"rests on what was purged on {at[:10]}" if at else None

    def unsealed(self) -> str | None:
        """Say why the record cannot be verified, or return ``None`` when it has a seal.

        A record of an earlier version has no seal. Its files can be read, but nothing is computed
        from it.
        """
        if self.record.seal is not None:
            return None
        return f"has a {RECORD_FILE} without a seal: an earlier version made it, or it was edited"

    def outdated(self) -> str | None:
        """Say how the artifact would be made differently today, or return ``None``."""
        try:
            today = self.demands.recipe(self.record.asset, self.record.partition)
        except FerError as error:  # A file that decides it is gone.
            return f"cannot be made as it was: {error.what}"
        return None if today in (None, self.record.recipe) else "its recipe changed"

    def failed(self) -> str | None:
        """Name the gate that the artifact failed and how; ``None`` when it failed none.

        Where the gates of the asset are unknown, every gate with a receipt counts.
        """
        for rule, blocks, receipt in self._verdicts():
            # Whether it blocks may be up to the profile, which the receipt knew.
            if receipt is not None and receipt.passed is False and (blocks or receipt.blocking):
                found = f"{receipt.value} (limit {receipt.limit}). {receipt.detail}"
                return f"failed gate '{rule}': {found}".rstrip()
        return None

    def unjudged(self) -> str | None:
        """Name a gate that must still judge the artifact before use, or return ``None``."""
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
        """Record that an input was purged ``at`` a time, and which files here were removed."""
        mark = Mark(at=at, removed=tuple(sorted({*self.mark().removed, *removed})))
        write_json(self.folder / PURGED_FILE, mark.model_dump(mode="json"))

    def mark(self) -> "Mark":
        """Return the content of ``purged.json``; an empty mark where nothing was purged."""
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
        """Return the valid receipts by gate: those of these very bytes and the current limits."""
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
        """Return whether a receipt has this artifact's bytes and record, and is its gate's file."""
        identity = (receipt.artifact_sha256, receipt.asset, receipt.partition, path.name)
        record = self.record
        mine = (self.sha256, record.asset, record.partition, receipt_file(receipt.rule))
        return identity == mine and receipt.seal in (None, record.seal)


class Mark(Plain):
    """``purged.json`` of a run directory: when an input was purged, which files were removed."""

    schema_version: Annotated[int, AfterValidator(known_version)] = 1
    at: Time | Literal[""] = ""
    removed: tuple[Below, ...] = ()
