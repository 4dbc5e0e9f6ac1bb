"""Find the files of run directories that show faces: they are not passed on, and can be purged."""

from pathlib import PurePosixPath

#: Contact sheets, and the name of folders that hold more of them.
SHEETS = frozenset({"faces.png", "findings.png"})
FOLDER = "faces"


def shows_faces(name: str) -> bool:
    """Return whether a file, by its path in a run directory, is a contact sheet."""
    path = PurePosixPath(name)
    return path.name in SHEETS or FOLDER in path.parts[:-1]
