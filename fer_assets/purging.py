"""``fer purge``: find data in every profile, remove it on demand, and name affected claims."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fer_assets.pages import claims_citing
from fer_assets.pipeline import Pipeline
from fer_ml.base.errors import FerError
from fer_ml.base.reading import sha256_file
from fer_ml.base.settings import Settings
from fer_ml.privacy import purge
from fer_ml.privacy.retention import SESSIONS
from fer_ml.storage.mirror import stores
from fer_ml.storage.store import Store


@dataclass(frozen=True)
class Plan:
    """What a purge removes and what depends on it, by profile; ``claims`` are by profile too."""

    wanted: purge.Wanted
    holdings: tuple[purge.Holding, ...]
    claims: dict[str, list[str]]

    @property
    def files(self) -> list[Path]:
        """Return every file and folder that is removed."""
        faces = (
            folder / name
            for f in self.holdings
            for folder, names in f.faces.items()
            for name in names
        )
        folders = (folder for part in self.holdings for folder in part.caches)
        pool = (path for part in self.holdings for path in part.pool)
        return [*self.wanted.folders, *pool, *faces, *folders]

    @property
    def raw(self) -> list[Path]:
        """Return raw files that still contain the data; they belong to the user and are kept."""
        return [path for part in self.holdings for path in part.raw]

    @property
    def resting(self) -> list[str]:
        """Return, by profile, assets with a current or former run directory that uses the data."""
        return sorted({f"{p.store.profile}/{a.key}" for p in self.holdings for a in p.resting})

    def to_json(self, *, carried_out: bool) -> dict[str, Any]:
        """Return the plan as JSON values."""
        return {
            "schema_version": 1,
            "carried_out": carried_out,
            "kind": self.wanted.kind,
            "photos": sorted(self.wanted.photos),
            "samples": {part.store.profile: part.samples for part in self.holdings},
            "removed": [str(path) for path in self.files],
            "still_in_raw": [str(path) for path in self.raw],
            "resting": self.resting,
            "claims": self.claims,
        }


def plan(settings: Settings, kind: str, name: str) -> Plan:
    """Search for it in every profile below the artifact root. Changes nothing."""
    profile_stores = stores(settings)
    if kind == "source":
        wanted = purge.find_source(profile_stores, name)
    elif kind == "session":
        wanted = _session(settings, profile_stores, Path(name))
    else:
        wanted = purge.find_photos(profile_stores, "photo" if kind == "photo" else "group", name)
    holdings = tuple(purge.examine(store, wanted) for store in profile_stores)
    return Plan(wanted, holdings, dict(_claims(holdings)))


def carry_out(settings: Settings, plan: Plan, reason: str) -> None:
    """Carry out the plan, and delete pictures of it from Dagster, if faces were shown there.

    A repeated call completes what an interrupted one left.
    """
    from fer_assets.abandoned import forget_pictures

    purge.carry_out(settings.home, plan.wanted, plan.holdings, reason)
    resting = (artifact for part in plan.holdings for artifact in part.resting)
    forget_pictures({artifact.record.asset for artifact in resting if purge.face_files(artifact)})


def _session(settings: Settings, profile_stores: list[Store], named: Path) -> purge.Wanted:
    from demo_app.logs import FRAMES_FOLDER, PER_FRAME_FILE, session_id

    folder = next((f for f in (named, settings.home / SESSIONS / named) if f.is_dir()), None)
    if folder is None or not (folder / PER_FRAME_FILE).is_file():
        raise FerError(
            "there is no such session",
            code="missing-session",
            where=folder or named,
            allowed=f"a folder with {PER_FRAME_FILE}, or its name below {settings.home / SESSIONS}",
        )
    return purge.find_session(
        profile_stores,
        folder,
        session_id=session_id(folder) if (folder / FRAMES_FOLDER).is_dir() else None,
        log_sha256=sha256_file(folder / PER_FRAME_FILE),
    )


def _claims(holdings: tuple[purge.Holding, ...]) -> Iterator[tuple[str, list[str]]]:
    """Return claims that depend on current run directories; unreadable profiles: none."""
    for part in holdings:
        try:
            pipeline = Pipeline.open(part.store.profile)
        except FerError:
            continue
        current = {
            artifact.record.asset
            for artifact in part.resting
            if part.store.current(artifact.record.asset, artifact.record.partition) == artifact
        }
        yield part.store.profile, claims_citing(pipeline.claims, current)
