"""Logs of an artifact root to which several machines write: one file per machine, read together.

A machine appends to its own ``<name>.<ext>``. In a shared bucket, and in the caches of the other
machines, that file is ``<name>.<machine>.<ext>``. So machines that write at the same time lose
nothing, and no line depends on what another machine has read.
"""

import json
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path

from fer_ml.base.files import write_atomic
from fer_ml.base.reading import read_file
from fer_ml.storage.object_store import Bucket

MACHINE_FILE = ".machine"
#: Whose log one is that has no machine in its name in a bucket: earlier versions shared one file.
EARLIER = "earlier"


def logs_of(home: Path, name: str) -> list[Path]:
    """Return the files of the log ``name`` in an artifact root, one per machine, its own first."""
    log = home / name
    return [path for path in (log, *sorted(home.glob(_of_machine(name, "*")))) if path.is_file()]


def fetch(home: Path, above: Bucket, names: Iterable[str]) -> None:
    """Take over what other machines have written to the logs ``names`` in a bucket.

    This machine's own log is restored if it is missing here, as after a cache was cleared.
    """
    own = _machine(home)
    for name in names:
        for there, machine in _in_bucket(above, name):
            path = home / (name if machine == own else _of_machine(name, machine))
            data = above.read(there)
            missing = not path.is_file()
            if data is not None and (missing or (machine != own and read_file(path) != data)):
                write_atomic(path, data)


def share(home: Path, above: Bucket, names: Iterable[str]) -> None:
    """Upload what this machine has written to the logs ``names``.

    Where the bucket's log holds what this one lacks, as after a cache was copied or restored, this
    one goes there under a new machine, and nothing is replaced.
    """
    for name in names:
        if not (home / name).is_file():
            continue
        data = read_file(home / name)
        there = above.read(_of_machine(name, _machine(home)))
        if there is not None and not _continues(there, data):
            write_atomic(home / MACHINE_FILE, b"")
        above.write(_of_machine(name, _machine(home)), data)


def _continues(before: bytes, after: bytes) -> bool:
    """Whether a log still holds all that it held: lines, or the entries of a JSON document."""
    if after.startswith(before):
        return True
    try:
        held, now = (json.loads(data)["entries"] for data in (before, after))
    except (ValueError, KeyError, TypeError):
        return False
    return bool(now[: len(held)] == held)


def _in_bucket(above: Bucket, name: str) -> Iterator[tuple[str, str]]:
    """Yield the objects of a log in the bucket, each with the id of its machine."""
    stem, _, suffix = name.rpartition(".")
    for there in above.names():
        if there == name:
            yield there, EARLIER
        elif there.startswith(f"{stem}.") and there.endswith(f".{suffix}"):
            yield there, there.removeprefix(f"{stem}.").removesuffix(f".{suffix}")


def _of_machine(name: str, machine: str) -> str:
    stem, _, suffix = name.rpartition(".")
    return f"{stem}.{machine}.{suffix}"


def _machine(home: Path) -> str:
    """What tells this artifact root from those of other machines; made when first asked for."""
    path = home / MACHINE_FILE
    name = read_file(path).decode() if path.is_file() else ""
    if not name:
        name = uuid.uuid4().hex
        write_atomic(path, name.encode())
    return name
