"""The evidence of claims as one zip, an RO-Crate, which can be verified without a store.

It contains the claims and, for each artifact they rest on, its record, receipts and tables.
Weights, arrays and pages are left out; the record gives their hashes. Faces are left out too unless
asked for: then the faces of the rows behind the claims and the contact sheets are included.
"""

import errno
import os
import shutil
import stat
import tempfile
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

import yaml

from fer_ml.base.errors import FerError
from fer_ml.base.files import discard, move, stays_below, temporary, write_json
from fer_ml.base.names import require_new
from fer_ml.base.reading import DOCUMENT, open_file, parse_json, read_json, regular, sha256_file
from fer_ml.claims.model import ClaimsFile
from fer_ml.claims.trace import Node, walk
from fer_ml.claims.verify import CLAIMS_COPY, Verified, verify_folder
from fer_ml.exchange.crate import METADATA, folder_of, metadata, stated_files
from fer_ml.privacy.faces import shows_faces
from fer_ml.storage.artifact import PURGED_FILE, RECEIPTS, Artifact, Demands
from fer_ml.storage.pointer import CURRENT_FILE
from fer_ml.storage.record import RECORD_FILE, FileEntry
from fer_ml.storage.store import Store

#: Tables and texts, which show nobody.
KEPT = frozenset({".csv", ".j2", ".json", ".jsonl", ".log", ".md", ".txt", ".yaml"})
#: What the report's own folder holds beyond these: it is passed on as it is, and shows nobody.
SHOWN = frozenset({".html", ".pdf", ".png"})
ARTIFACTS = "artifacts"
MOST_FILES = 100_000
MOST_BYTES = 16 << 30
_MOST = f"{MOST_FILES:,} files of {MOST_BYTES >> 30} GiB in all"
#: What Python says of a zip that is cut off or altered, or of a kind that it cannot unpack.
_BROKEN = (
    *(zipfile.BadZipFile, zlib.error, NotImplementedError, EOFError),
    *(RuntimeError, OSError, ValueError, KeyError),
)
_FIX = "ask for it again, or export it again with 'fer claims export'"


def export_evidence(
    verified: Verified, store: Store, reports: Sequence[Node], out: Path, *, faces: bool = False
) -> dict[str, FileEntry]:
    """Write the zip of grounded claims, with ``reports``; equal input gives equal bytes.

    Returns its files. Raises ``FerError`` when a claim is not grounded, or ``out`` exists.
    """
    require_new(out)
    if out.suffix != ".zip":
        raise FerError(
            f"the name of the export, {out.name!r}, does not end with .zip",
            code="unknown-suffix",
            where=out,
            allowed="a name that ends with .zip",
        )
    if out.exists():
        raise FerError(
            "the output exists already", code="output-exists", where=out, fix="name a new one"
        )
    verified.require_grounded()
    nodes = list(walk([*(n for claim in verified.claims for n in claim.traces), *reports]))
    if not nodes:
        raise FerError(
            "the selected claims cite no artifact, so there is nothing to export",
            code="no-evidence",
            where=out,
            fix="name claims that cite an artifact",
        )
    with tempfile.TemporaryDirectory() as place:
        written = Path(place) / CLAIMS_COPY
        written.write_text(_claims_text(verified.held), encoding="utf-8")
        sources = {CLAIMS_COPY: written}
        for node in nodes:
            if node.artifact is not None:
                sources |= _files(store, node.artifact, node in reports, faces)
        if faces:
            sources |= _pictures(store, verified, Path(place))
        if len(sources) > MOST_FILES:
            raise FerError(
                f"the export would hold {len(sources):,} files",
                code="too-many-files",
                where=out,
                allowed=_MOST,
                fix="export fewer claims, or without faces",
            )
        entries = {
            name: FileEntry(sha256=sha256_file(path), bytes=path.stat().st_size)
            for name, path in sorted(sources.items())
        }
        about = Path(place) / METADATA
        write_json(about, metadata(verified.held.title, verified.claims, nodes, entries))
        _write_zip({METADATA: about, **{name: sources[name] for name in entries}}, out)
    return entries


@contextmanager
def verified_evidence(path: Path, claims: Path | None, demands: Demands) -> Iterator[Verified]:
    """Verify an exported zip or its folder, with its own claims or other ``claims``.

    Every file must match the metadata: ``FerError`` for a file that is truncated, altered, missing,
    or not listed.
    """
    with tempfile.TemporaryDirectory() as place:
        folder = path
        if not path.is_dir():
            folder = Path(place)
            _unpack(path, folder)
        _require_listed_files(folder)
        yield verify_folder(folder / ARTIFACTS, claims or folder / CLAIMS_COPY, demands=demands)


def is_evidence(path: Path) -> bool:
    """Return whether ``path`` is an exported zip or its folder, not an artifact root."""
    return path.is_file() or (path / METADATA).is_file()


def _claims_text(claims_file: ClaimsFile) -> str:
    return yaml.safe_dump(
        claims_file.model_dump(mode="json", exclude_unset=True), sort_keys=False, allow_unicode=True
    )


def _files(store: Store, artifact: Artifact, report: bool, faces: bool) -> dict[str, Path]:
    """Return the files of an artifact that a crate contains, by their path in it."""
    record, base = artifact.record, folder_of(artifact)
    home = store.home(record.asset, record.partition)
    files = {f"{PurePosixPath(base).parent}/{CURRENT_FILE}": home / CURRENT_FILE}
    # When the same bytes were made before: what rests on them may be older than the newest.
    for copy in store.all(record.asset, record.partition):
        if copy.sha256 == artifact.sha256:
            files[f"{folder_of(copy)}/{RECORD_FILE}"] = copy.folder / RECORD_FILE
    names = [
        *(f"{RECEIPTS}/{path.name}" for path in (artifact.folder / RECEIPTS).glob("*.json")),
        *(PURGED_FILE for path in (artifact.folder / PURGED_FILE,) if path.is_file()),
        *(name for name in record.files if _kept(name, report, faces)),
    ]
    return files | {f"{base}/{name}": artifact.folder / name for name in names}


def _pictures(store: Store, verified: Verified, place: Path) -> dict[str, Path]:
    """Return the faces of the rows behind the claims that were not purged."""
    # These read tables with polars, which whoever verifies claims does without.
    from fer_ml.evidence.rows import evidence_of
    from fer_ml.evidence.tables import Tables

    tables = Tables(store, place)
    for evidence in evidence_of(store, verified.claims).values():
        for rows in evidence.rows:
            tables.add(rows)
    pictures = {name: store.root / name for name in tables.images if stays_below(name)}
    return {f"{ARTIFACTS}/{name}": path for name, path in pictures.items() if path.is_file()}


def _kept(name: str, report: bool, faces: bool) -> bool:
    suffix = PurePosixPath(name).suffix
    if report:
        return suffix in KEPT | SHOWN
    if shows_faces(name) or suffix == ".html":  # Pages of rows show their faces.
        return faces
    return suffix in KEPT


def _write_zip(sources: dict[str, Path], out: Path) -> None:
    """Write a zip without times, machine or user, so that equal content gives equal bytes."""
    partial = temporary(out)
    try:
        with zipfile.ZipFile(partial, "w", zipfile.ZIP_DEFLATED) as archive:
            folders = {f"{folder}/" for name in sources for folder in PurePosixPath(name).parents}
            for folder in sorted(folders - {"./"}):
                archive.writestr(zipfile.ZipInfo(folder), b"")
            for name, path in sources.items():
                info = zipfile.ZipInfo(name)
                info.compress_type, info.create_system = zipfile.ZIP_DEFLATED, 3
                info.external_attr = (stat.S_IFREG | 0o644) << 16
                with open_file(path) as source, archive.open(info, "w", force_zip64=True) as into:
                    shutil.copyfileobj(source, into, 1 << 20)
        move(partial, out)
    finally:
        discard(partial)


def _unpack(path: Path, place: Path) -> None:
    try:
        with zipfile.ZipFile(regular(path)) as archive:
            listed = archive.infolist()
            names = [info.filename for info in listed if not info.is_dir()]
            # What is unpacked is never more than these say.
            sizes = {info.filename: info.file_size for info in listed}
            if (
                len(listed) > MOST_FILES
                or sum(sizes.values()) > MOST_BYTES
                or sizes.get(METADATA, 0) > DOCUMENT
            ):
                raise FerError(
                    "the zip holds too many or too large files",
                    code="archive-too-large",
                    where=path,
                    allowed=_MOST,
                )
            about = parse_json(archive.read(METADATA), METADATA) if METADATA in names else None
            if about is None:
                raise FerError(
                    f"the export has no {METADATA}", code="missing-metadata", where=path, fix=_FIX
                )
            wanted = {METADATA, *_stated(about, path)}
            _require_same(set(names), wanted, path)
            for name in names:
                target = place / name
                target.parent.mkdir(parents=True, exist_ok=True)
                with archive.open(name) as source, target.open("xb") as into:
                    shutil.copyfileobj(source, into, 1 << 20)
    except FileNotFoundError as error:
        raise FerError(
            "there is no such zip or folder",
            code="missing-file",
            where=path,
            fix="correct the path",
        ) from error
    except _BROKEN as error:
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL, errno.EEXIST):
            raise  # The disk's fault.
        raise FerError(
            f"the zip is damaged: {error}", code="invalid-zip", where=path, fix=_FIX
        ) from error


def _require_listed_files(folder: Path) -> None:
    """Require that every listed file is there and matches, and no other file."""
    try:
        stated = _stated(read_json(folder / METADATA, root=folder), folder)
    except FileNotFoundError as error:
        raise FerError(
            f"the export has no {METADATA}", code="missing-metadata", where=folder, fix=_FIX
        ) from error
    paths = {
        (Path(at) / name).relative_to(folder).as_posix()
        for at, _, names in os.walk(folder)
        for name in names
    }
    _require_same(paths, {METADATA, *stated}, folder)
    for name, entry in stated.items():
        path = folder / name
        if path.stat().st_size != entry.bytes or sha256_file(path, root=folder) != entry.sha256:
            raise FerError(
                f"{name} differs from its hash in {METADATA}",
                code="export-changed",
                where=path,
                fix=_FIX,
            )


def _stated(about: object, where: Path) -> dict[str, FileEntry]:
    try:
        return stated_files(about["@graph"])  # type: ignore[index]
    except (TypeError, KeyError, ValueError, AttributeError) as error:
        raise FerError(
            f"{METADATA} lists no files as an export does: {type(error).__name__} {error}",
            code="invalid-metadata",
            where=where,
            fix=_FIX,
        ) from error


def _require_same(present: set[str], wanted: set[str], where: Path) -> None:
    for what, names in (("missing", wanted - present), ("not listed", present - wanted)):
        if names:
            listing = ", ".join(sorted(names)[:3]) + (" ..." if len(names) > 3 else "")
            raise FerError(
                f"files of the export are {what}: {listing}",
                code="export-changed",
                where=where,
                fix=_FIX,
            )
