"""The versions of this platform's file formats, and the reading of earlier ones.

A file is never rewritten to be read: ``upgraded`` converts its contents in memory, version by
version, to those of the current version. A file without such a conversion must be made again, and
a newer one is refused. The guide is ``docs/operate.md#upgrades``.
"""

from collections.abc import Callable, Mapping
from decimal import Decimal
from pathlib import PurePath
from typing import Any, NamedTuple

from fer_ml.base.errors import FerError

Values = dict[str, Any]
GUIDE = "docs/operate.md#upgrades"


class OtherVersion(FerError):
    """The file's version is too new, or too old to be converted."""


class Versions(NamedTuple):
    """The version that this platform writes of a format, and the oldest that it reads."""

    written: int
    oldest: int


#: Files of a run folder that are named after something else.
FAMILIES = ("manifest_validation", "calibration/")
#: By kind of file, or by name in a run folder; whatever is not here has only had version 1.
VERSIONS: Mapping[str, Versions] = {
    "fer.toml": Versions(3, 1),
    "card.json": Versions(3, 1),
    "claims": Versions(2, 1),
    "checkpoint": Versions(2, 1),
    "packed training": Versions(2, 1),
    "labels of a teacher": Versions(2, 2),
    "benchmark.json": Versions(2, 2),
    "comparison.json": Versions(2, 2),
    "ensemble.json": Versions(2, 2),
    "selection.json": Versions(2, 2),
    "hash_manifest.json": Versions(2, 2),
    "sharpness.json": Versions(2, 2),
    # Read by pointers and for tables, in either version.
    "claims.json": Versions(2, 1),
    "demo_kpis.json": Versions(2, 1),
    "ensemble_metrics.json": Versions(2, 1),
    "leakage.json": Versions(3, 1),
    "logits.json": Versions(2, 1),
    "serving.json": Versions(2, 1),
    "small_bundles.json": Versions(2, 1),
    "manifest_validation": Versions(2, 1),
    "thresholds.json": Versions(2, 1),
    "training.json": Versions(2, 1),
}


def versions_of(kind: str) -> Versions:
    """Return the versions of a format: a key of ``VERSIONS`` or a file's name in a run folder."""
    family = next((prefix for prefix in FAMILIES if kind.startswith(prefix)), PurePath(kind).name)
    return VERSIONS.get(family, Versions(1, 1))


def upgraded(kind: str, document: Values, where: object, key: str = "schema_version") -> Values:
    """Return ``document``, the contents of a file, converted to the current version of ``kind``.

    ``key`` is the field that holds the version; without it the version is 1. ``OtherVersion`` for
    one that is newer or too old, ``FerError`` for one that is no number.
    """
    written, oldest = versions_of(kind)
    text = str(document.get(key, 1))
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise FerError(
            f"{key} {text[:40]!r} is not a version number",
            code="invalid-version",
            where=where,
            allowed=f"{oldest} to {written}",
        )
    version = int(text)
    if version > written:
        raise OtherVersion(
            f"version {version} of {kind} was written by a newer platform",
            code="newer-version",
            where=where,
            allowed=f"{oldest} to {written}",
            fix=f"upgrade the platform: see {GUIDE}",
        )
    if version < oldest:
        raise OtherVersion(
            f"version {version} of {kind} was written by an earlier platform and cannot be "
            "converted",
            code="older-version",
            where=where,
            allowed=f"{oldest} to {written}",
            fix=f"make it again: fer materialize (see {GUIDE})",
        )
    for step in range(version, written):
        document = STEPS.get((kind, step), dict)(document)
    return {**document, key: written} if version < written else document


def known_version(version: int, info: Any) -> int:
    """Check ``schema_version`` of a pydantic model; the validation context is the file's path."""
    name = getattr(info.context, "name", "file")
    upgraded(name, {"schema_version": version}, info.context)
    return version


def _renamed(values: Values, names: Mapping[str, str]) -> Values:
    return {names.get(key, key): value for key, value in values.items()}


def _recipe(recipe: Values) -> Values:
    """A training's recipe: ``strength`` was ``augment``, ``precision`` was ``bf16``.

    Smoothing was the task's, and is the training's.
    """
    new = dict(recipe)
    task = new.get("task")
    if isinstance(task, dict) and "label_smoothing" in task:
        new["label_smoothing"] = task["label_smoothing"]
        new["task"] = {key: value for key, value in task.items() if key != "label_smoothing"}
    if isinstance(new.get("augment"), int | float):
        new["strength"] = new.pop("augment")
    if "bf16" in new:
        new["precision"] = "bf16" if new.pop("bf16") else "fp32"
    return new


def _checkpoint(checkpoint: Values) -> Values:
    return {**checkpoint, "recipe": _recipe(checkpoint["recipe"])}


def _packed(document: Values) -> Values:
    """All steps were trainings, and did not say so."""
    return {**document, "steps": [{"kind": "training", **step} for step in document["steps"]]}


def _claims(document: Values) -> Values:
    """Claims of no kind were of one number, and ``expected`` was a number with its decimals."""
    return {**document, "claims": [_claim(claim) for claim in document["claims"]]}


def _claim(claim: Values) -> Values:
    new = _renamed({"kind": "number", **claim}, {"n_pointer": "n"})
    if new.get("expected") is not None:
        places, value = int(new.pop("decimals", 0)), Decimal(str(new["expected"]))
        # As version 1 asked: more would be a text that fills the memory.
        if not (0 <= places <= 9 and abs(value) <= Decimal("1e15")):
            raise ValueError(f"expected is {value!s:.40} with {places} decimals")
        new["expected"] = f"{value:.{places}f}"
    return new


def _settings(document: Values) -> Values:
    """Recipes as above; of a face in several places one was kept by ``unique = true``."""
    profiles = document.get("profiles")
    if not isinstance(profiles, dict):
        return document
    return {**document, "profiles": {name: _profile(profile) for name, profile in profiles.items()}}


def _profile(profile: Any) -> Any:
    if not isinstance(profile, dict):
        return profile
    new = {key: _profile(value) for key, value in _recipe(profile).items()}
    if "unique" in new:
        new.update({"one_per": "sample"} if new.pop("unique") else {})
    return new


def with_frame(preprocess: Any) -> Any:
    """Convert an old preprocessing, with ``margin``, to one with ``frame``; keep any other as is.

    ``margin`` widened annotated boxes only, CLAHE had eight tiles a side on faces of any size,
    and faces kept the colour of their file.
    """
    if not isinstance(preprocess, dict) or "margin" not in preprocess:
        return preprocess
    new = {"clahe_tile_px": 1, "colour": "rgb", **preprocess}
    new["frame"] = {"side": round(1 + 2 * new.pop("margin"), 10), "down": 0.0}
    return new


def _card(card: Values) -> Values:
    """FER's publishers give grey faces: who learned from them alone is given grey."""
    new, titles = dict(card), str(card.get("data", "")).partition(": ")[2]
    spec = with_frame(card.get("preprocess"))
    if isinstance(spec, dict) and all(title.startswith("FER") for title in titles.split("; ")):
        spec = {**spec, "colour": "grey"}
    return {**new, "preprocess": spec}


def _framed(document: Values) -> Values:
    """``preprocess.margin`` of a profile is its frame."""
    profiles = document.get("profiles")
    if not isinstance(profiles, dict):
        return document
    return {
        **document,
        "profiles": {name: _with_side(profile) for name, profile in profiles.items()},
    }


def _with_side(profile: Any) -> Any:
    spec = profile.get("preprocess") if isinstance(profile, dict) else None
    if not isinstance(spec, dict) or not isinstance(spec.get("margin"), int | float):
        return profile
    rest = {key: value for key, value in spec.items() if key != "margin"}
    return {**profile, "preprocess": {**rest, "frame": {"side": round(1 + 2 * spec["margin"], 10)}}}


STEPS: Mapping[tuple[str, int], Callable[[Values], Values]] = {
    ("fer.toml", 1): _settings,
    ("fer.toml", 2): _framed,
    ("card.json", 1): _card,
    ("claims", 1): _claims,
    ("checkpoint", 1): _checkpoint,
    ("packed training", 1): _packed,
}
