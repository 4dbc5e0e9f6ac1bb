"""Logs of an artifact root to which several machines write: one file per machine, read together.

A machine appends to its own ``<name>.<ext>``. In a shared bucket, and in the caches of the other
machines, that file is ``<name>.<machine>.<ext>``. So machines that write at the same time lose
nothing, and no line depends on what another machine has read.
"""

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
    """Download the parts of the logs ``names`` that other machines wrote to a bucket."""
    local = _machine(home)
    for name in names:
        for there, machine in _in_bucket(above, name):
            data = above.read(there)
            path = home / _of_machine(name, machine)
            if machine == local or data is None or (path.is_file() and read_file(path) == data):
                continue
            write_atomic(path, data)


def share(home: Path, above: Bucket, names: Iterable[str]) -> None:
    """Upload this machine's part of the logs ``names`` to the bucket."""
    for name in names:
        if (home / name).is_file():
            above.write(_of_machine(name, _machine(home)), read_file(home / name))


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
    """Return the id that tells this artifact root from other machines'; made on first use."""
    path = home / MACHINE_FILE
    try:
        with path.open("x") as file:
            file.write(uuid.uuid4().hex)
    except FileExistsError:
        pass
    return read_file(path).decode()
