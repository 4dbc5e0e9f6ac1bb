"""Metadata of a run directory: its record, its content hash, and the receipts of its gates."""

import hashlib
import json
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, ValidationError

from fer_ml.base.errors import FerError, first_fault
from fer_ml.base.files import stays_below
from fer_ml.base.plain import Plain
from fer_ml.base.reading import read_file
from fer_ml.base.versions import known_version

RECORD_FILE = "record.json"

#: Files that hold times or facts about the machine: hashed and verified, but not part of the
#: content hash. Parquet copies are here because their bytes follow the library's version.
VOLATILE_FILES = frozenset(
    {"history.json", "environment.json", "alignmentreport.json", "train.log", "timing.json"}
)
VOLATILE_SUFFIXES = (".parquet", ".png", ".html", ".pdf")


def _below(name: str) -> str:
    if not stays_below(name):
        raise ValueError(f"{name!r} is no path below a folder")
    return name


#: A relative path with ``/``: whoever reads it stays below the folder that it is in.
Below = Annotated[str, AfterValidator(_below)]


class FileEntry(Plain):
    """sha256 and size in bytes of one file of a run directory."""

    sha256: str
    bytes: int


class Input(Plain):
    """One input of an artifact: another artifact by content hash, or a raw folder by fingerprint.

    ``root`` is set for raw folders only. ``recipe_sha256`` is the hash of the recipe in the input's
    record; it is ``None`` for raw folders and in records of versions that did not store it.
    """

    asset: str
    partition: str | None = None
    sha256: str
    root: str | None = None
    recipe_sha256: str | None = None

    @property
    def key(self) -> str:
        """The label of the input: ``asset`` or ``asset[partition]``."""
        return asset_label(self.asset, self.partition)


def _is_time(text: str) -> str:
    if datetime.fromisoformat(text).tzinfo is None:
        raise ValueError("time without a zone")
    return text


#: An ISO 8601 time with its zone.
Time = Annotated[str, AfterValidator(_is_time)]


class Record(Plain):
    """``record.json``: the files of a run directory and its origin; it is written last.

    - ``recipe``: the part of the profile that decided the result.
    - ``sha256``: the content hash.
    - ``splits``: the splits that each choice used, such as ``{"checkpoint": "val", "temperature":
      "calib"}``.
    - ``summary``: figures for tables and plots, with the cost of the step (``cost.Meter``).
    - ``seal``: the hash of all other fields; ``None`` in records of versions without seals.
    """

    schema_version: Annotated[int, AfterValidator(known_version)] = 1
    asset: Below
    partition: Below | None
    profile: str
    sha256: str
    files: dict[Below, FileEntry]
    inputs: tuple[Input, ...]
    recipe: dict[str, Any]
    code_version: str
    run_id: str | None
    created_at: Time
    seconds: float
    splits: dict[str, str]
    summary: dict[str, Any]
    seal: str | None = None

    @property
    def made_at(self) -> datetime:
        """``created_at`` as a time that can be compared."""
        return datetime.fromisoformat(self.created_at)

    @property
    def recipe_sha256(self) -> str:
        """The hash of the recipe; it tells apart recipes whose results have the same content hash.

        Claims, and records of artifacts made from this one, state it beside the content hash.
        """
        return _hash_of(self.recipe)

    def expected_seal(self) -> str:
        """The sha256 over all other stored fields, as JSON with sorted keys."""
        return _hash_of(self.model_dump(mode="json", exclude={"seal"}, exclude_unset=True))


class Receipt(Plain):
    """One gate's outcome for exactly the bytes ``artifact_sha256``.

    ``passed`` is ``None`` where there was nothing to judge. ``examples`` has at most five entries.
    ``judged_by`` holds the fields of the profile that the asset's gates read, by name. ``seal`` is
    the seal of the record that was judged. ``judged_by`` and ``seal`` are ``None`` in receipts of
    versions that did not store them.
    """

    schema_version: Annotated[int, AfterValidator(known_version)] = 1
    asset: str
    partition: str | None
    artifact_sha256: str
    rule: str
    blocking: bool
    passed: bool | None
    value: float | str
    limit: float | str
    detail: str
    examples: tuple[str, ...]
    checked_at: str
    run_id: str | None
    judged_by: dict[str, Any] | None = None
    seal: str | None = None


def _hash_of(values: dict[str, Any]) -> str:
    # Through JSON first: read again, the same values must give the same text.
    plain_values = json.loads(json.dumps(values))
    return hashlib.sha256(json.dumps(plain_values, sort_keys=True).encode()).hexdigest()


def read_record(folder: Path) -> Record:
    """Read the record of a run directory; ``FerError`` when it is missing or cannot be read."""
    path = folder / RECORD_FILE
    try:
        return Record.model_validate_json(read_file(path, root=folder), context=path)
    except OSError as error:
        raise FerError(
            f"the run folder has no {RECORD_FILE}",
            code="missing-record",
            where=folder,
            fix="materialize the asset again",
        ) from error
    except ValidationError as error:
        raise FerError(
            f"the record of the run folder is invalid: {first_fault(error)}",
            code="invalid-record",
            where=path,
            fix="restore the file from a backup, or materialize the asset again",
        ) from error


def asset_label(asset: str, partition: str | None) -> str:
    """Return the label of an asset and partition: ``teacher[RN18]``."""
    return f"{asset}[{partition}]" if partition else asset


def parse_label(label: str) -> tuple[str, str | None]:
    """Split a label of ``asset_label`` into asset and partition."""
    asset, _, rest = label.partition("[")
    return asset, rest.removesuffix("]") or None


def is_volatile(name: str) -> bool:
    """Return whether a file is excluded from the content hash."""
    return Path(name).name in VOLATILE_FILES or name.endswith(VOLATILE_SUFFIXES)


def content_hash(files: dict[str, FileEntry]) -> str:
    """Return the content hash of a run directory: over name and sha256 of non-volatile files."""
    lines = [
        f"{name}\0{entry.sha256}\n"
        for name, entry in sorted(files.items())
        if not is_volatile(name)
    ]
    return hashlib.sha256("".join(lines).encode()).hexdigest()
