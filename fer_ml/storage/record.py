"""What a run folder says of itself: its record, its content hash, and receipts of its gates."""

import hashlib
import json
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict

from fer_ml.base.files import stays_below
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


class FileEntry(BaseModel):
    """sha256 and size of one file of a run folder."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    sha256: str
    bytes: int


class Input(BaseModel):
    """One input of an artifact: another artifact by content hash, or a raw folder by fingerprint.

    ``root`` is set for raw folders only.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    asset: str
    partition: str | None = None
    sha256: str
    root: str | None = None

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


class Record(BaseModel):
    """``record.json``: what a run folder holds and what it was made from.

    ``splits`` lists which splits each choice of this artifact touched, such as
    ``{"checkpoint": "val", "temperature": "calib"}``. ``summary`` is for tables and plots, and says
    what the step cost (``cost.Meter``). ``seal`` is the hash of all other fields; records that were
    written before there were seals have none.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
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

    def expected_seal(self) -> str:
        """sha256 over every other field, as JSON with sorted keys."""
        # Through JSON first: read again, the same record must give the same text.
        held = json.loads(json.dumps(self.model_dump(mode="json", exclude={"seal"})))
        return hashlib.sha256(json.dumps(held, sort_keys=True).encode()).hexdigest()


class Receipt(BaseModel):
    """One gate's outcome for exactly the bytes ``artifact_sha256``.

    ``passed`` is ``None`` where there was nothing to judge.

    ``judged_by`` has the fields of the profile that its asset's gates read, by name; ``None`` in
    receipts that were written before they were noted.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
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


def asset_label(asset: str, partition: str | None) -> str:
    """How an asset is written for people: ``teacher[RN18]``."""
    return f"{asset}[{partition}]" if partition else asset


def parse_label(label: str) -> tuple[str, str | None]:
    """Asset and partition of what ``asset_label`` wrote."""
    asset, _, rest = label.partition("[")
    return asset, rest.removesuffix("]") or None


def content_hash(files: dict[str, FileEntry]) -> str:
    """The content hash of a run folder: over name and sha256 of each file that is not volatile."""
    lines = [
        f"{name}\0{entry.sha256}\n"
        for name, entry in sorted(files.items())
        if Path(name).name not in VOLATILE_FILES and not name.endswith(VOLATILE_SUFFIXES)
    ]
    return hashlib.sha256("".join(lines).encode()).hexdigest()
