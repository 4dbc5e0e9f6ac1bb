"""The ledger of looks: which evaluation sets were looked at when, and what had been decided then.

``looks.jsonl`` of the artifact root has a line for each time that metrics on a set were made
visible, in any profile. Lines are only appended, each with the hash of the line before it; where
machines share an object store, each has its own file. A set is known by its faces, so another name
or profile does not make it a new one. Numbers on faces that were looked at while something was
decided otherwise are marked wherever they are printed: the decision could have been informed by
that look.
"""

import hashlib
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, ValidationError

from fer_ml.base.errors import FerError, first_fault
from fer_ml.base.plain import Plain
from fer_ml.base.reading import read_file
from fer_ml.base.versions import known_version
from fer_ml.storage.logs import logs_of
from fer_ml.storage.record import Time

LOOKS_FILE = "looks.jsonl"
#: The most bytes of a ledger: a hundred sets of a million faces.
LEDGER = 2 << 30
#: Of a run folder: the sets that its numbers are of, each with the faces in it.
SETS_FILE = "looks.json"


class Look(Plain):
    """One look at an evaluation set, for all profiles of an artifact root.

    ``decisions`` are hashes of the profile's recipes, by what they decide.

    ``sets`` gives the hash of each set's faces, and ``faces`` those of sets that no line before
    had. ``plan`` is the hash of the written plan of the comparisons, ``after`` that of the line
    before.
    """

    schema_version: Annotated[int, AfterValidator(known_version)] = 1
    at: Time
    profile: str
    asset: str
    run_id: str | None
    decisions: dict[str, str]
    plan: str | None
    sets: dict[str, str]
    faces: dict[str, tuple[str, ...]]
    after: str


def face_ids(samples: Iterable[str]) -> list[str]:
    """The faces of a set as the ledger knows them: short hashes of their ids, in order."""
    return sorted({hashlib.sha256(sample.encode()).hexdigest()[:12] for sample in samples})


def _set_hash(faces: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(faces).encode()).hexdigest()


def read_looks(home: Path) -> list[Look]:
    """The ledger of an artifact root, oldest first; empty where nothing was looked at.

    ``FerError`` for one that was edited: then nobody knows what was looked at.
    """
    looks = [look for path in logs_of(home, LOOKS_FILE) for look in _read(path)]
    return sorted(looks, key=lambda look: look.at)


def _read(path: Path) -> list[Look]:
    looks, after = list[Look](), ""
    lines = read_file(path, LEDGER).splitlines()
    for number, line in enumerate(lines, 1):
        try:
            look = Look.model_validate_json(line, context=path)
            fault = None if look.after == after else "a line before it was changed or taken out"
        except ValidationError as error:
            fault = first_fault(error)
        if fault:
            raise FerError(
                f"{LOOKS_FILE}, the record of who looked at which evaluation set, is damaged: "
                f"{fault}",
                code="invalid-looks-ledger",
                where=f"{path}:{number}",
                fix="restore the file from a backup: lines are only ever appended to it",
            )
        after = hashlib.sha256(line).hexdigest()
        looks.append(look)
    return looks


def looked_before(
    home: Path, faces: Iterable[str], decisions: Mapping[str, str]
) -> dict[str, Any] | None:
    """What is printed of numbers on these ``faces``, or ``None``: nothing was decided after a look.

    ``since`` is the first look at any of them while something was decided otherwise, ``decided``
    what differs between then, or a later look, and now.
    """
    wanted, looks = set(faces), read_looks(home)
    face_sets = {name: set(ids) for look in looks for name, ids in look.faces.items()}
    since, decided = None, set[str]()
    for look in looks:
        if look.decisions == decisions or not any(
            wanted & face_sets[s] for s in look.sets.values()
        ):
            continue
        since = since or look.at
        decided |= {k for k, _ in set(look.decisions.items()) ^ set(decisions.items())}
    return {"since": since, "decided": sorted(decided)} if since else None


def planned_before(home: Path, sets: Mapping[str, list[str]], plan: str) -> bool:
    """Whether every look at these sets came after the plan of this hash was written."""
    wanted = {_set_hash(faces) for faces in sets.values()}
    return all(look.plan == plan for look in read_looks(home) if wanted & set(look.sets.values()))


def note_look(
    home: Path,
    sets: Mapping[str, list[str]],
    *,
    profile: str,
    asset: str,
    run_id: str | None,
    decisions: Mapping[str, str],
    plan: str | None,
) -> None:
    """Append one look at ``sets``, each the ``face_ids`` in it."""
    from filelock import FileLock  # Reading needs none, and the demo reads stores too.

    home.mkdir(parents=True, exist_ok=True)
    with FileLock(home / f".{LOOKS_FILE}.lock"):
        looks, path = read_looks(home), home / LOOKS_FILE
        last = read_file(path, LEDGER).splitlines()[-1] if path.is_file() else None
        known = {name for look in looks for name in look.faces}
        hashes = {name: _set_hash(faces) for name, faces in sets.items()}
        look = Look(
            at=datetime.now(UTC).isoformat(timespec="seconds"),
            profile=profile,
            asset=asset,
            run_id=run_id,
            decisions=dict(decisions),
            plan=plan,
            sets=hashes,
            faces={h: tuple(sets[name]) for name, h in hashes.items() if h not in known},
            after=hashlib.sha256(last).hexdigest() if last else "",
        )
        with path.open("ab") as file:
            file.write(look.model_dump_json().encode() + b"\n")
