"""What a run folder says of itself: its record, its content hash, and receipts of its gates."""

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
    """sha256 and size of one file of a run folder."""

    sha256: str
    bytes: int


class Input(Plain):
    """One input of an artifact: another artifact by content hash, or a raw folder by fingerprint.

    ``root`` is set for raw folders only. ``recipe_sha256`` is the hash of the recipe in the
    artifact's record; ``None`` for raw folders, and in records from before it was noted.
    """

    asset: str
    partition: str | None = None
    sha256: str
    root: str | None = None
    recipe_sha256: str | None = None

    @property
    def key(self) -> str:
        """``asset`` or ``asset[partition]``."""
        return asset_label(self.asset, self.partition)


def _is_time(text: str) -> str:
    if datetime.fromisoformat(text).tzinfo is None:
        raise ValueError("time without a zone")
    return text


#: An ISO 8601 time with its zone.
Time = Annotated[str, AfterValidator(_is_time)]


class Record(Plain):
    """``record.json``: what a run folder holds and what it was made from; written last.

    ``recipe`` is the part of the profile that decided it, ``sha256`` the content hash.
    ``splits`` lists which splits each choice of this artifact touched, such as
    ``{"checkpoint": "val", "temperature": "calib"}``. ``summary`` is for tables and plots, and says
    what the step cost (``cost.Meter``). ``seal`` is the hash of all other fields; records that were
    written before there were seals have none.
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
        """``created_at``, to compare with."""
        return datetime.fromisoformat(self.created_at)

    @property
    def recipe_sha256(self) -> str:
        """The hash of the recipe; content hashes are the same for recipes with equal results.

        Claims, and records of what was made from this artifact, name it beside the content hash.
        """
        return _hash_of(self.recipe)

    def expected_seal(self) -> str:
        """sha256 over every other field that was written, as JSON with sorted keys."""
        return _hash_of(self.model_dump(mode="json", exclude={"seal"}, exclude_unset=True))


class Receipt(Plain):
    """One gate's outcome for exactly the bytes ``artifact_sha256``.

    ``passed`` is ``None`` where there was nothing to judge; ``examples`` are at most five.
    ``judged_by`` has the fields of the profile that its asset's gates read, by name; ``seal`` is
    that of the record beside which it was judged. Each is ``None`` in receipts that were written
    before it was noted.
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
    """The record of a run folder; ``FerError`` when there is none that can be read."""
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
    """How an asset is written for people: ``teacher[RN18]``."""
    return f"{asset}[{partition}]" if partition else asset


def parse_label(label: str) -> tuple[str, str | None]:
    """Asset and partition of what ``asset_label`` wrote."""
    asset, _, rest = label.partition("[")
    return asset, rest.removesuffix("]") or None


def is_volatile(name: str) -> bool:
    """Whether a file is not part of the content hash."""
    return Path(name).name in VOLATILE_FILES or name.endswith(VOLATILE_SUFFIXES)


def content_hash(files: dict[str, FileEntry]) -> str:
    """The content hash of a run folder: over name and sha256 of each file that is not volatile."""
    lines = [
        f"{name}\0{entry.sha256}\n"
        for name, entry in sorted(files.items())
        if not is_volatile(name)
    ]
    return hashlib.sha256("".join(lines).encode()).hexdigest()
