"""Pointers: which run directory is current, and the steps still due once one has become current."""

import re
from typing import Annotated

from pydantic import AfterValidator, StringConstraints

from fer_ml.base.plain import Plain
from fer_ml.base.versions import known_version
from fer_ml.storage.record import Below

CURRENT_FILE = "current.json"

#: How run folders are called.
RUN_NAME = re.compile(r"\d{8}T\d{6}Z-[0-9a-f]{8}-[0-9a-f]{4}")


class Pointer(Plain):
    """``current.json``: the current run directory, its content hash, and the seal of its record.

    ``seal`` is ``None`` where an earlier version wrote the pointer.
    """

    schema_version: Annotated[int, AfterValidator(known_version)] = 1
    folder: Annotated[str, StringConstraints(pattern=f"^(?:{RUN_NAME.pattern})$")]
    sha256: str
    seal: str | None = None


class Follow(Plain):
    """The steps after a run directory was renamed into place; it holds names, never paths."""

    asset: Below
    partition: Below | None
    folder: Below
    sha256: str
    seal: str | None = None
    before: str | None
    spent: tuple[Below, ...]

    def pointer(self) -> Pointer:
        """The content of ``current.json`` for this run directory."""
        return Pointer(folder=self.folder, sha256=self.sha256, seal=self.seal)
