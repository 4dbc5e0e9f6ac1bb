"""The ledger of looks: which evaluation sets were seen when, and the decisions made by then.

``looks.jsonl`` of the artifact root has one line for each time that metrics on a set became
visible, in any profile. Lines are only appended, each with the hash of the line before it. Where
machines share an object store, each has its own file. A set is identified by its faces, so a new
name or profile does not make it a new set. If a decision (a profile's recipe) changed after the
metrics on a face had been seen, that look could have influenced it. Later numbers on that face are
marked wherever they are printed.
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
#: A file of a run folder: the evaluation sets of its numbers, each with the ids of its faces.
SETS_FILE = "looks.json"


class Look(Plain):
    """One look at evaluation sets, in the ledger that all profiles of an artifact root share.

    ``decisions`` maps what a recipe of the profile decides to the hash of that recipe.

    ``sets`` gives the hash of each set's faces, and ``faces`` the faces of sets that no earlier
    line lists. ``plan`` is the hash of the written plan of the comparisons, ``after`` that of the
    previous line.
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
    """Return the ids of faces in the ledger: short hashes of sample ids, sorted."""
    return sorted({hashlib.sha256(sample.encode()).hexdigest()[:12] for sample in samples})


def _set_hash(faces: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(faces).encode()).hexdigest()


def read_looks(home: Path) -> list[Look]:
    """Return the ledger of an artifact root, oldest look first; empty if there is none.

    Raises ``FerError`` if the ledger was edited: then the earlier looks are unknown.
    """
    looks = [look for path in logs_of(home, LOOKS_FILE) for look in _read(path)]
    return sorted(looks, key=lambda look: look.at)


def _read(path: Path) -> list[Look]:
    looks, after = list[Look](), ""
    for number, line in enumerate(_lines(path), 1):
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


def _lines(path: Path) -> list[bytes]:
    """Return the whole lines: one that a killed process left without its end was never a look.

    Its numbers were not kept either, since a look is noted before its run becomes visible.
    """
    data = read_file(path, LEDGER)
    return data[: data.rfind(b"\n") + 1].splitlines()


def looked_before(
    home: Path, faces: Iterable[str], decisions: Mapping[str, str]
) -> dict[str, Any] | None:
    """Return the mark of numbers on ``faces``, or ``None`` if no decision changed after a look.

    The mark has two keys. ``since`` is the time of the first look at any of the faces under other
    decisions than the present ones. ``decided`` names the decisions that have changed since that
    look or a later one.
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
    """Return whether the plan with hash ``plan`` was written before every look at these faces."""
    wanted, looks = {face for faces in sets.values() for face in faces}, read_looks(home)
    seen = {name for look in looks for name, faces in look.faces.items() if wanted & set(faces)}
    return all(look.plan == plan for look in looks if seen & set(look.sets.values()))


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
    """Append one look to the ledger; ``sets`` maps each set's name to its ``face_ids``."""
    from filelock import FileLock  # Reading needs none, and the demo reads stores too.

    home.mkdir(parents=True, exist_ok=True)
    with FileLock(home / f".{LOOKS_FILE}.lock"):
        looks, path = read_looks(home), home / LOOKS_FILE
        lines = _lines(path) if path.is_file() else []
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
            after=hashlib.sha256(lines[-1]).hexdigest() if lines else "",
        )
        with path.open("ab") as file:
            file.truncate(sum(len(line) + 1 for line in lines))
            file.write(look.model_dump_json().encode() + b"\n")
