"""A profile by its name: a built-in one, or the user's own from fer.toml."""

from pathlib import Path
from typing import Any

from pydantic import ValidationError

from fer_ml.base.errors import FerError, first_fault
from fer_ml.base.settings import Settings
from fer_ml.recipes.builtin import PROFILES
from fer_ml.recipes.profile import _CURATED, Profile


def load_profile(settings: Settings, name: str | None = None) -> Profile:
    """Load the profile ``name`` (default: the active one): a built-in one, or one of fer.toml.

    A profile in fer.toml names its ``base`` and the fields that differ. Tables are merged, other
    values replaced, and the result is validated as a whole. A curation that names its ``sources``
    also drops the base's ``min_confidence`` of all other sources; a profile that names its
    ``sources`` drops the base's ``looked_at``. ``without`` lists parts of the
    base to remove first, such as ``["teachers.B3", "experiments"]``. The name of a built-in profile
    always means that one. ``FerError`` for an unknown name or an invalid profile.
    """
    name = name or settings.profile
    user_profiles = settings.config.profiles
    _check_roots(settings.config.roots, user_profiles)
    for taken in sorted(user_profiles.keys() & PROFILES.keys()):
        raise FerError(
            f"[profiles.{taken}] changes a built-in profile",
            code="reserved-profile-name",
            where="fer.toml",
            fix=f'choose another name: [profiles.my_{taken}] with base = "{taken}", then '
            f"fer materialize -p my_{taken}",
        )
    if name in user_profiles:
        return _on_its_base(name, _anchored(user_profiles[name], settings.project))
    if name not in PROFILES:
        raise FerError(
            f"unknown profile {name!r}",
            code="unknown-profile",
            allowed=", ".join([*PROFILES, *user_profiles]),
            fix="name a known profile, or add [profiles.NAME] to fer.toml",
        )
    return PROFILES[name]()


def _check_roots(roots: dict[str, str], user_profiles: dict[str, dict[str, Any]]) -> None:
    """A folder under [roots] is for a source that some profile has: else it does nothing."""
    if not roots:
        return
    tables = (profile.get("sources") for profile in user_profiles.values())
    listed = (source for table in tables if isinstance(table, list) for source in table)
    known = {str(source.get("name")) for source in listed if isinstance(source, dict)}
    known |= {source.name for make in PROFILES.values() for source in make().sources}
    for name in sorted(roots.keys() - known):
        raise FerError(
            f"roots.{name}: no profile has a source of that name",
            code="unknown-source",
            where="fer.toml",
            allowed=", ".join(sorted(known)),
            fix="correct the name, or remove the line",
        )


def _anchored(value: Any, project: Path) -> Any:
    """``value`` with each ``init_file`` below fer.toml's folder, wherever ``fer`` is started."""
    if not isinstance(value, dict):
        return value
    return {
        key: str(project / Path(entry).expanduser())
        if key == "init_file" and isinstance(entry, str)
        else _anchored(entry, project)
        for key, entry in value.items()
    }


def _on_its_base(name: str, changes: dict[str, Any]) -> Profile:
    """The user's own profile: a built-in one with ``changes``, as fer.toml has them."""
    base = changes.pop("base", "sample")
    if not isinstance(base, str) or base not in PROFILES:
        raise FerError(
            f"profiles.{name}.base: unknown profile {base!r}",
            code="unknown-profile",
            where="fer.toml",
            allowed=", ".join(PROFILES),
            fix=f"correct it under [profiles.{name}]",
        )
    # What is built of a seed is built of the profile's own; one that is none is refused below.
    seed = changes.get("seed")
    of_seed = {"seed": seed} if type(seed) is int and 0 <= seed < 2**63 else {}
    start = PROFILES[base](**of_seed).model_dump(mode="json")
    for path in changes.pop("without", ()):
        _leave_out(start, path, f"profiles.{name}.without")
    for curation in _CURATED:
        own_curation = changes.get(curation)
        if isinstance(own_curation, dict) and isinstance(own_curation.get("sources"), list):
            kept = start[curation]["min_confidence"].items()
            start[curation]["min_confidence"] = {
                source: least for source, least in kept if source in own_curation["sources"]
            }
    start["looked_at"] = _still_looked_at(start, changes)
    merged = _merge(start, {**changes, "name": name})
    try:
        return Profile.from_plain(merged)
    except ValidationError as error:
        unknown = set(changes) - set(Profile.model_fields)
        known = start.get("experiments", {})  # ``without`` may have taken them out.
        new = set(merged.get("experiments", {})) - set(known)
        raise FerError(
            first_fault(error, "profiles", name),
            code="invalid-profile",
            where="fer.toml",
            allowed=", ".join(("base", "without", *Profile.model_fields)) if unknown else None,
            fix=f"name an experiment of {base} ({', '.join(known)}), or state the whole recipe "
            "of a new one"
            if error.errors()[0]["loc"][:2] in {("experiments", n) for n in new}
            else f"correct it under [profiles.{name}]",
        ) from error


def _still_looked_at(start: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """What the base looked at, as far as it is in the profile: none of it with other sources."""
    if "sources" in changes:
        return {}
    merged = _merge(start, changes)
    own = merged.get("curations")
    curated = {**merged, **(own if isinstance(own, dict) else {})}
    splits = {n: c.get("splits") for n, c in curated.items() if isinstance(c, dict)}
    looked_at = start.get("looked_at", {})
    return {name: day for name, day in looked_at.items() if "test" in str(splits.get(name))}


def _leave_out(values: dict[str, Any], path: str, where: str) -> None:
    *tables, last = str(path).split(".")
    for table in tables:
        values = values.get(table) or {}
    if last not in values:
        raise FerError(
            f"{where}: the base has no {path}",
            code="unknown-field",
            where="fer.toml",
            allowed=", ".join(values),
            fix="correct it, or remove it from without",
        )
    del values[last]


def _merge(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in changes.items():
        old = merged.get(key)
        merged[key] = (
            _merge(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
        )
    return merged
