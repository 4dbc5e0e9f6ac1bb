"""Purge a photo, a person's photos, a source or a recorded session, pixels first.

Every pixel below the artifact root is removed: images of the pool, thumbs, contact sheets, pages
with faces, caches, unfinished trainings, recorded frames. Rows and numbers stay; they name photos
by hash. Every artifact made from the photos is marked and is stale from then on. The log keeps
hashes and no names, and cleaning excludes what it lists from every later manifest.
"""

import re
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Literal

import polars as pl

from fer_ml.base.errors import FerError
from fer_ml.base.files import write_json
from fer_ml.base.reading import as_text
from fer_ml.privacy.faces import shows_faces
from fer_ml.privacy.log import Entry, Kind, Log, read_own
from fer_ml.privacy.retention import FRAMES, links_below
from fer_ml.storage.artifact import PURGED_FILE, Artifact
from fer_ml.storage.store import Store

#: Files of run folders that hold faces besides contact sheets: the sources' thumbs, and pages.
FACE_FILES = frozenset({"thumbs.npy", "review.html", "error_analysis.html"})
#: Copies of contact sheets in the report of a drawn profile, and what they are set into.
COPIED_FACES = re.compile(r"figures/.*(faces|findings)")
REPORTS = ("report.html", "report.pdf")
#: Beside the artifacts of one profile: everything in it can be made again.
CACHES = ("cache", "evidence", "unfinished")
#: Of ``fer validate``, below the artifact root.
VALIDATE_CACHE = ".validate"


@dataclass(frozen=True)
class Wanted:
    """The targets of a purge: photos by hash, and sources to be removed as a whole.

    ``session`` is the sha256 of a session's log, by which recipes name sessions; ``folders`` are
    recordings.
    """

    kind: Kind
    photos: frozenset[str]
    sources: frozenset[str] = frozenset()
    session: str | None = None
    folders: tuple[Path, ...] = ()


@dataclass(frozen=True)
class Holding:
    """The files of one profile that a purge affects.

    ``faces`` are files with faces in the run directories ``resting``, which were made from the
    targets.
    """

    store: Store
    sources: frozenset[str]
    samples: int
    pool: tuple[Path, ...]
    raw: tuple[Path, ...]
    resting: tuple[Artifact, ...]
    caches: tuple[Path, ...]

    @cached_property
    def faces(self) -> dict[Path, list[str]]:
        """Existing files with faces, by run directory."""
        return {
            artifact.folder: names
            for artifact in self.resting
            if (names := [n for n in face_files(artifact) if (artifact.folder / n).exists()])
        }


def find_photos(stores: Sequence[Store], kind: Literal["photo", "group"], name: str) -> Wanted:
    """Find photos by a sample's or photo's hash, an image's path in a manifest, or an image file.

    ``group`` takes every photo of the group: the same face under several names, in any source.
    Raises ``FerError`` when no manifest contains it.
    """
    meant = rows_meant(name)
    # In manifest/<source> a photo is its own group; unified, groups hold several.
    prefix = "manifest/" if kind == "photo" else ""
    frames = [_rows(artifact) for store in stores for artifact in _manifests(store, prefix)]
    samples = {s for frame in frames for s in frame.filter(meant)["sample_id"]}
    if kind == "group":
        groups = {
            group
            for frame in frames
            for group in frame.filter(pl.col("sample_id").is_in(list(samples)))["group_id"]
        }
        joined = pl.col("group_id").is_in(list(groups))
        samples |= {s for frame in frames for s in frame.filter(joined)["sample_id"]}
    photos = _photos_of(stores, pl.col("sample_id").is_in(list(samples)))
    if not photos:
        raise FerError(
            f"no manifest contains the {kind} {name!r}",
            code="unknown-photo",
            where=", ".join(str(store.root) for store in stores) or "an empty artifact root",
            allowed="the hash of a sample or a photo (8 digits or more), an image_path of a "
            "manifest, or an image file",
        )
    if kind == "photo" and len(photos) > 1:
        raise FerError(
            f"{name!r} matches {len(photos)} photos",
            code="ambiguous-name",
            allowed=", ".join(sorted(photos)[:5]),
            fix="give more digits of the hash, or purge each photo",
        )
    return Wanted(kind, photos)


def rows_meant(name: str) -> pl.Expr:
    """Return an expression for the rows of a source's manifest that ``name`` means.

    Names are as in ``find_photos``.
    """
    path = Path(name)
    if path.is_file():
        from fer_ml.images.identity import photo_hash
        from fer_ml.images.pixels import read_image  # OpenCV: a hash needs none of it.

        return pl.col("group_id") == photo_hash(read_image(path))
    if re.fullmatch(r"[0-9a-f]{8,32}", name):
        begins = [pl.col(column).str.starts_with(name) for column in ("sample_id", "group_id")]
        return begins[0] | begins[1]
    return pl.col("image_path") == name


def find_source(stores: Sequence[Store], name: str) -> Wanted:
    """Find a whole source; ``FerError`` when no profile made a manifest of it."""
    known = {a.record.asset for store in stores for a in _manifests(store)}
    sources = sorted(a.removeprefix("manifest/") for a in known if a.startswith("manifest/"))
    if name not in sources:
        raise FerError(
            f"there is no manifest of a source {name!r}",
            code="unknown-source",
            allowed=", ".join(sources),
        )
    return Wanted("source", frozenset(), frozenset({name}))


def find_session(
    stores: Sequence[Store], folder: Path, *, session_id: str | None, log_sha256: str | None
) -> Wanted:
    """Find a recorded session, and the photos that a buffer took from it.

    ``session_id`` names its frames in buffers, ``log_sha256`` its log in recipes.
    """
    inside = pl.col("orig_image").str.contains(f"session-{session_id}/", literal=True)
    photos = _photos_of(stores, inside) if session_id else frozenset()
    return Wanted("session", photos, session=log_sha256, folders=(folder,))


def examine(store: Store, wanted: Wanted) -> Holding:
    """Find the affected files of a profile; nothing is changed."""
    of_photos = pl.col("group_id").is_in(list(wanted.photos))
    of_sources = pl.col("source").is_in(list(wanted.sources))
    samples, sources = set(), set()
    pool: set[Path] = set()
    raw: set[Path] = set()
    count = set()
    for artifact in _manifests(store, "manifest/"):
        rows = _rows(artifact).filter(of_photos | of_sources)
        if rows.is_empty():
            continue
        sources.add(artifact.record.asset.removeprefix("manifest/"))
        samples |= set(rows.filter(of_photos)["sample_id"])
        count |= set(rows.select("source", "sample_id").iter_rows())
        pool |= {store.root / path for path in rows["image_path"]}
        root = next((i.root for i in artifact.record.inputs if i.root), None)
        raw |= {Path(root) / file for file in rows["orig_image"] if root}
    # A whole source has more in the pool than rows: what was quarantined later is there too.
    for source in wanted.sources:
        pool |= set((store.root / "cleaned" / source).rglob("*"))
    meant = pl.col("sample_id").is_in(list(samples)) | of_sources
    return Holding(
        store,
        frozenset(sources),
        len(count),
        tuple(sorted(path for path in pool if path.is_file())),
        tuple(sorted(path for path in raw if path.is_file())),
        tuple(_resting(store, meant, wanted.session)),
        tuple(folder for name in CACHES if (folder := store.root / name).exists()),
    )


def carry_out(home: Path, wanted: Wanted, holdings: Sequence[Holding], reason: str) -> Entry:
    """Remove the targets, mark artifacts made from them, and log it; return the log entry.

    It can be repeated after a power cut. Raises ``FerError`` while any artifact is being made,
    since that could restore pixels, and where a link leads to pixels, which would stay.
    """
    for part in holdings:
        part.store.sweep()
        partial = part.store.root / ".partial"
        busy = list(partial.iterdir()) if partial.is_dir() else []
        if busy:
            raise FerError(
                "another process is making an asset of this profile",
                code="work-in-progress",
                where=busy[0],
                fix="wait until it is done, or stop it; then start again",
            )
    at = datetime.now(UTC).isoformat(timespec="seconds")
    removed = [path for part in holdings for path in part.pool]
    removed += [
        folder / n for part in holdings for folder, names in part.faces.items() for n in names
    ]
    cache = home / VALIDATE_CACHE
    caches = [*(f for part in holdings for f in part.caches), *([cache] if cache.is_dir() else [])]
    folders = [*wanted.folders, *caches]
    for path in (*removed, *folders):
        if links := links_below(path):
            raise FerError(
                "the files to remove contain a link, and its target would remain",
                code="linked-pixels",
                where=f"{links[0]}, which leads to {links[0].resolve()}",
                fix="delete the target and the link; then start again",
            )
    entry = Entry(
        at=at,
        kind=wanted.kind,
        reason=reason,
        photos=tuple(sorted(wanted.photos)),
        sources=tuple(sorted({s for part in holdings for s in part.sources} | wanted.sources)),
        files_removed=len(removed),
        resting=tuple(sorted({f"{p.store.profile}/{a.key}" for p in holdings for a in p.resting})),
    )
    log = read_own(home / PURGED_FILE)
    # First of all: from here on nothing takes it in again, and nothing that rested on it is green.
    write_json(home / PURGED_FILE, Log(entries=(*log.entries, entry)).model_dump(mode="json"))
    for part in holdings[:1]:  # They share one log.
        part.store.share_log()
    for part in holdings:
        for artifact in part.resting:
            artifact.mark_purged(at, part.faces.get(artifact.folder, ()))
            part.store.marked(artifact)
    for path in removed:
        path.unlink(missing_ok=True)
    # Frames before the log beside them, by which a purge that was stopped finds them again.
    for folder in (*(f / FRAMES for f in wanted.folders if (f / FRAMES).exists()), *folders):
        shutil.rmtree(folder)
    return entry


def face_files(artifact: Artifact) -> list[str]:
    """Return the files of a run directory that show faces, existing or already purged."""
    names = list(artifact.record.files)
    files = [n for n in names if n in FACE_FILES or shows_faces(n) or COPIED_FACES.match(n)]
    if any(COPIED_FACES.match(name) for name in files):
        files += [name for name in REPORTS if name in names]
    return files


def _resting(store: Store, meant: pl.Expr, session: str | None) -> Iterable[Artifact]:
    """Yield every artifact, current or not, with a row that is ``meant``, or made from such a one.

    A manifest counts by its own rows, not by the manifest it was cut from.
    """
    every = list(store.every())
    made = {(artifact.key, artifact.sha256): artifact for artifact in every}
    known: dict[tuple[str, str], bool] = {}

    def rests(artifact: Artifact) -> bool:
        key = (artifact.key, artifact.sha256)
        if key not in known:
            known[key] = False  # A circle in edited records must end.
            below = (made.get((item.key, item.sha256)) for item in artifact.record.inputs)
            if _manifest_file(artifact):
                known[key] = not _rows(artifact).filter(meant).is_empty()
            elif session is not None and artifact.record.recipe.get("video_sha256") == session:
                known[key] = True
            else:
                known[key] = any(rests(other) for other in below if other is not None)
        return known[key]

    return [artifact for artifact in every if rests(artifact)]


def _photos_of(stores: Sequence[Store], meant: pl.Expr) -> frozenset[str]:
    """Return the photo hashes of the rows meant; in ``manifest/<source>`` each is its own group."""
    frames = (_rows(a) for store in stores for a in _manifests(store, "manifest/"))
    return frozenset(photo for frame in frames for photo in frame.filter(meant)["group_id"])


def _manifests(store: Store, prefix: str = "") -> Iterable[Artifact]:
    return (
        artifact
        for artifact in store.every()
        if artifact.record.asset.startswith(prefix) and _manifest_file(artifact)
    )


def _manifest_file(artifact: Artifact) -> str | None:
    """Return the csv of a manifest: the one with a parquet copy beside it."""
    files = artifact.record.files
    named = (n for n in files if n.endswith(".csv") and n.removesuffix("csv") + "parquet" in files)
    return next(named, None)


def _rows(artifact: Artifact) -> pl.DataFrame:
    columns = ["image_path", "source", "orig_image", "sample_id", "group_id"]
    file = artifact.file(str(_manifest_file(artifact)))
    return pl.scan_csv(as_text(file), glob=False, infer_schema=False).select(columns).collect()
