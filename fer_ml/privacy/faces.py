"""Which files of run folders show faces: those of people are not passed on, and are purged."""

from pathlib import PurePosixPath

#: Contact sheets, and the name of folders that hold more of them.
SHEETS = frozenset({"faces.png", "findings.png"})
FOLDER = "faces"


def shows_faces(name: str) -> bool:
    """Whether a file of a run folder, by its path there, is a contact sheet."""
    path = PurePosixPath(name)
    return path.name in SHEETS or FOLDER in path.parts[:-1]
