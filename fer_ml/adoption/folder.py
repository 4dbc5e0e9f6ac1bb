"""Recognise a foreign folder or file, select the files to copy, and refuse unsafe ones.

Formats are those of the first pipeline; this platform's own run directories use the same names.
"""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ValidationError

from fer_ml.base.errors import FerError, first_fault
from fer_ml.base.names import clashing, name_fault, require_portable
from fer_ml.base.reading import Refused, open_file, read_file, sha256_file
from fer_ml.training.checkpoint import CHECKPOINT_FILE, WEIGHTS_FILE
from fer_ml.validation.table import NEEDED

Kind = Literal["run", "evaluation", "softlabels", "manifest", "validation"]
Model = TypeVar("Model", bound=BaseModel)

#: By kind: files of checklist A.4 of the interim report, then those that may lie beside them.
FILES: dict[Kind, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "run": (
        (CHECKPOINT_FILE, "history.json", "reliabilitymetrics.json", "calibration.json"),
        ("alignmentreport.json", "environment.json", "classorder.json", "preds.csv"),
    ),
    "evaluation": (
        ("reliabilitymetrics.json", "eval_meta.json", "preds.csv"),
        ("calibration.json", "reliabilitymetrics_by_source.json"),
    ),
    "softlabels": (
        ("softlabels.npz", "softlabels_index.jsonl"),
        ("classorder.json", "hash_manifest.json", "alignmentreport.json", "ensemble_metrics.json"),
    ),
    "manifest": ((), ()),
    "validation": ((), ()),
}
#: Which files tell the kind of a folder, in this order.
SIGNS: tuple[tuple[Kind, tuple[str, ...]], ...] = (
    ("softlabels", ("softlabels.npz", "softlabels_index.jsonl")),
    ("run", (CHECKPOINT_FILE, WEIGHTS_FILE, "history.json")),
    ("evaluation", ("eval_meta.json", "preds.csv")),
    ("run", ("reliabilitymetrics.json", "calibration.json")),
)
MANIFEST_REPORT = re.compile(r"manifest_validation\w*\.json")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,99}")
#: Largest size in bytes of a file that is taken. JSON is parsed whole, into thirty times as much.
MAX_JSON, MAX_OTHER = 16 << 20, 8 << 30
#: Longest list of files that are named as left out.
MAX_LEFT_OUT = 200


@dataclass(frozen=True)
class Foreign:
    """A recognised result: its kind, its original name, files to copy, and files left out."""

    kind: Kind
    origin: str
    files: Mapping[str, Path]
    left_out: tuple[str, ...] = ()
    converted_from: dict[str, Any] | None = field(default=None)


def recognise(path: Path) -> Foreign:
    """Recognise the result at ``path``: a folder, a manifest csv, or a validation JSON.

    Raises ``FerError`` when it is none of these, or when a file to copy is unsafe: a link that
    leads out of the folder, not a regular file, or too large.
    """
    if path.is_file():
        return _single(path)
    if not path.is_dir():
        raise FerError(
            "there is no such folder or file",
            code="missing-file",
            where=path,
            fix="correct the path",
        )
    present = {entry.name: entry for entry in sorted(path.iterdir())}
    kind = next((kind for kind, names in SIGNS if any(n in present for n in names)), None)
    if kind is None:
        return _tables(path, present)
    required, companions = FILES[kind]
    names = [name for name in (*required, *companions) if name in present]
    if kind == "run" and CHECKPOINT_FILE not in present and WEIGHTS_FILE in present:
        names.append(WEIGHTS_FILE)
    return _foreign(kind, path, {name: present[name] for name in names}, present)


def _tables(folder: Path, present: Mapping[str, Path]) -> Foreign:
    """Recognise a folder with one manifest and its reports, or with one report alone."""
    manifests = [n for n, p in present.items() if n.endswith(".csv") and _is_manifest(p)]
    reports = [name for name in present if MANIFEST_REPORT.fullmatch(name)]
    if len(manifests) > 1 or (not manifests and len(reports) > 1):
        raise FerError(
            "the folder holds several manifests or reports",
            code="several-manifests",
            where=folder,
            allowed=", ".join(manifests or reports),
            fix="name one file instead of the folder, one after the other",
        )
    if manifests:
        # A report that speaks of another manifest is no companion of this one.
        taken = [*manifests, *(n for n in reports if _speaks_of(present[n]) == manifests[0])]
        return _foreign("manifest", folder, {n: present[n] for n in taken}, present)
    if reports:
        return _foreign("validation", folder, {reports[0]: present[reports[0]]}, present)
    raise FerError(
        "the folder holds nothing that can be adopted",
        code="nothing-to-adopt",
        where=folder,
        allowed="a run folder (best.pt, history.json, ...), an evaluation (eval_meta.json, "
        "preds.csv), a soft-label export (softlabels.npz, ...), a manifest csv, a "
        "manifest_validation*.json, or a run of a packed training",
    )


def _single(path: Path) -> Foreign:
    if path.suffix == ".csv" and _is_manifest(path):
        return _foreign("manifest", path, {path.name: path}, {})
    if path.suffix == ".json" and "rows_total" in _keys(path):
        return _foreign("validation", path, {path.name: path}, {})
    raise FerError(
        "the file is neither a manifest nor a validation report",
        code="nothing-to-adopt",
        where=path,
        allowed=f"a csv with the columns {', '.join(NEEDED)}, or a manifest_validation*.json",
        fix="name the folder for other results",
    )


def _foreign(
    kind: Kind, path: Path, files: Mapping[str, Path], present: Mapping[str, Path]
) -> Foreign:
    root = path.resolve() if path.is_dir() else path.resolve().parent
    require_portable(files, path)
    for file in files.values():
        guard(root, file)
    left = [f"{name}/" if p.is_dir() else name for name, p in present.items() if name not in files]
    if len(left) > MAX_LEFT_OUT:
        left = [*left[:MAX_LEFT_OUT], f"and {len(left) - MAX_LEFT_OUT} more"]
    return Foreign(kind, path.resolve().name, dict(files), tuple(left))


def guard(root: Path, path: Path) -> None:
    """Raise ``FerError`` unless ``path`` is a regular file below ``root`` of a sensible size."""
    try:
        real = path.resolve(strict=True)
        size = real.stat().st_size
    except (OSError, RuntimeError) as error:
        raise FerError(
            "the file cannot be read, or is a broken link",
            code="unreadable-file",
            where=path,
            fix="copy the folder again, with its files",
        ) from error
    if not real.is_relative_to(root):
        raise FerError(
            f"{path.name} is a link that leads out of the folder",
            code="link-leads-out",
            where=path,
            fix="replace the link by the file itself",
        )
    if not real.is_file():
        raise FerError(
            f"{path.name} is not a regular file",
            code="not-regular-file",
            where=path,
            fix="replace it by the file itself",
        )
    limit = MAX_JSON if path.suffix == ".json" else MAX_OTHER
    if size > limit:
        raise FerError(
            f"{path.name} has {size:,} bytes",
            code="file-too-large",
            where=path,
            allowed=f"at most {limit:,}",
        )
    if size == 0:
        raise FerError(
            f"{path.name} is empty", code="empty-file", where=path, fix="copy the folder again"
        )


def adopted_name(given: str | None, path: Path, taken: Iterable[str] = ()) -> str:
    """Return the partition: ``given``, or else the result's name; ``FerError`` if unusable.

    It becomes a folder name and must not differ from a name in ``taken`` only in case.
    """
    name = given or (path.resolve().name if path.is_dir() else path.stem)
    pair = clashing([*taken, name])
    if not NAME.fullmatch(name) or name_fault(name) or pair:
        raise FerError(
            f"{name!r} is not a valid name for an adopted result"
            + (f" beside {pair[0]!r}: they differ only in case" if pair else ""),
            code="invalid-adopted-name",
            allowed="letters, digits, '-' and '_', at most 100, the first a letter or digit; "
            "no device of Windows (CON, NUL, COM1, ...)",
            fix="name it: --as NAME",
        )
    return name


def _is_manifest(path: Path) -> bool:
    try:
        with open_file(path) as file:
            header = file.readline(1 << 16)
    except (OSError, Refused):
        return False
    columns = header.decode("utf-8-sig", "replace").strip().split(",")
    return {"image_path", "label", "split", "source"} <= {c.strip('" ') for c in columns}


def _keys(path: Path) -> set[str]:
    guard(path.resolve().parent, path)
    document = parse_json(path)
    return set(document) if isinstance(document, dict) else set()


def _speaks_of(report: Path) -> str:
    document = parse_json(report)
    named = document.get("manifest") if isinstance(document, dict) else None
    return file_name(named) if isinstance(named, str) else ""


def file_name(path: str) -> str:
    r"""Return the last part of any machine's path: a.csv of ``C:\data\a.csv``, ``/data/a.csv``."""
    return re.split(r"[\\/]", path)[-1]


def parse_json(path: Path) -> Any:
    """Parse a foreign JSON file; ``FerError`` when it is damaged. NaN and infinity are accepted."""
    try:
        return json.loads(read_file(path, MAX_JSON))
    except (ValueError, RecursionError) as error:
        raise FerError(
            f"{path.name} is damaged: {str(error)[:200]}",
            code="invalid-json",
            where=path,
            fix="copy the folder again",
        ) from error


def parse_as(path: Path, model: type[Model]) -> Model:
    """Parse a foreign JSON object as ``model``; ``FerError`` names the first wrong field."""
    try:
        return model.model_validate(parse_json(path))
    except ValidationError as error:
        raise FerError(
            f"{path.name} does not have the fields that the first pipeline wrote: "
            f"{first_fault(error)}",
            code="unexpected-content",
            where=path,
            fix="copy the folder again, as the first pipeline wrote it",
        ) from error


def named_hashes(foreign: Foreign) -> set[str]:
    """Return the sha256 of each manifest that a result says it was made from."""
    hashes = set()
    for name, pointer in (
        ("alignmentreport.json", ("paths", "manifest_sha256")),
        ("alignmentreport.json", ("manifest_sha256",)),
        ("hash_manifest.json", ("sha256",)),
    ):
        value = parse_json(foreign.files[name]) if name in foreign.files else None
        for key in pointer:
            value = value.get(key) if isinstance(value, dict) else None
        if isinstance(value, str) and re.fullmatch(r"[0-9a-f]{64}", value):
            hashes.add(value)
    return hashes


def describe(path: Path) -> dict[str, Any]:
    """Return name, sha256 and size of a file that is not copied."""
    return {"file": path.name, "sha256": sha256_file(path), "bytes": path.stat().st_size}
