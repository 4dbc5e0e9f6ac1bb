"""Pages with the evidence of a profile's claims: write, refresh and serve them."""

import json
import shutil
import threading
from collections.abc import Sequence
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from urllib.parse import quote

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Receive, Scope, Send

from fer_assets.pages import PAGES, asset_path
from fer_assets.pipeline import Pipeline
from fer_assets.start import Start
from fer_ml.base.errors import FerError
from fer_ml.base.files import owned_name, stays_below
from fer_ml.base.reading import read_text, regular
from fer_ml.evidence.address import FOLDER, STATE_FILE
from fer_ml.privacy.log import read_log
from fer_ml.storage.artifact import PURGED_FILE
from fer_ml.storage.logs import logs_of

INDEX = f"{FOLDER}/index.html"


def write(pipeline: Pipeline) -> Path:
    """Write the pages into the artifact root, where they show images of its image pool."""
    root, state = pipeline.store.root, state_of(pipeline)
    _written(pipeline, root, (), faces=True, sheets=pipeline.shows_faces, local=True, state=state)
    return root / INDEX


def export(pipeline: Pipeline, folder: Path, only: Sequence[str], *, faces: bool) -> Path:
    """Write the pages into a folder that can be passed on, with copies of faces if requested.

    If all claims are exported, the report is included, provided its bytes match its record. Raises
    ``FerError`` for a folder of the artifact root, or a folder that contains anything else.
    """
    from fer_ml.evidence.pages import replace_folder, whole_current

    folder, root = folder.resolve(), pipeline.store.root
    _require_other(folder, root.resolve())
    made = folder.with_name(f".{owned_name()}")
    folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        images = _written(pipeline, made, only, faces=faces, sheets=faces, local=False)
        for name in sorted(images) if faces else ():
            if stays_below(name) and (root / name).is_file():
                (made / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(regular(root / name), made / name)
        report = None if only else whole_current(pipeline.store, "report")
        if report is not None:
            copy = made / report.folder.relative_to(root)
            copy.mkdir(parents=True)
            for name in {"report.html", "report.pdf"} & report.record.files.keys():
                shutil.copyfile(regular(report.file(name)), copy / name)
        replace_folder(made, folder, INDEX)
    finally:
        shutil.rmtree(made, ignore_errors=True)
    return folder / INDEX


def _require_other(folder: Path, root: Path) -> None:
    """Raise ``FerError`` if ``folder`` contains or is inside the artifact root or user folders."""
    if folder == root or root in folder.parents or folder in root.parents:
        raise FerError(
            "the folder is, holds or lies in the artifact root",
            code="output-exists",
            where=folder,
            fix="name a new folder",
        )
    names = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    if others := sorted(names - {FOLDER, "report", "cleaned"}):
        raise FerError(
            f"the folder holds other files, such as {others[0]}",
            code="output-exists",
            where=folder,
            fix="name a new folder",
        )


def refresh(pipeline: Pipeline) -> Path:
    """Write the pages again if anything that they show was made or judged since."""
    index = pipeline.store.root / INDEX
    state_file = index.with_name(STATE_FILE)
    if not state_file.is_file() or read_text(state_file) != state_of(pipeline):
        write(pipeline)
    return index


def state_of(pipeline: Pipeline) -> str:
    """Return a hash over the modification times of everything that the pages show."""
    places = [pipeline.claims_file(), *logs_of(pipeline.settings.home, PURGED_FILE)]
    for target in pipeline.targets():
        home = pipeline.store.home(target.asset, target.partition)
        places += [home / "current.json", *home.glob("*/receipts")]
    times = [(str(path), path.stat().st_mtime_ns) for path in places if path.exists()]
    return sha256(json.dumps(sorted(times)).encode()).hexdigest()


def _written(
    pipeline: Pipeline,
    base: Path,
    only: Sequence[str],
    *,
    faces: bool,
    sheets: bool,
    local: bool,
    state: str = "",
) -> set[str]:
    from fer_ml.claims.model import read_claims
    from fer_ml.claims.trace import Tracer
    from fer_ml.claims.verify import verify
    from fer_ml.evidence.numbers import numbers_of
    from fer_ml.evidence.pages import Around, report_of, whole_current, write_evidence

    store = pipeline.store
    tracer = Tracer(store, pipeline.fingerprints())
    verified = verify(read_claims(pipeline.claims_file()), tracer)
    report = None if only else whole_current(store, "report")
    numbers = numbers_of(report) if report else None
    profile, log = pipeline.profile, read_log(pipeline.settings.home)
    around = Around(
        profile.name,
        profile.drawn,
        faces,
        sheets=sheets,
        report=report_of(store) if report else "",
        purged=log,
        local=local,
        state=state,
    )
    printed = verify(numbers, tracer).claims if numbers else ()
    return write_evidence(base, store, verified, around, only, printed)


class Pages:
    """ASGI application for ``/fer/``: start page, evidence, reports, and faces where permitted.

    Its paths equal those in the artifact root, so links between pages work as they do in a folder.
    All other requests are passed to ``app``.
    """

    def __init__(self, app: ASGIApp, pipeline: Pipeline) -> None:
        self._app = app
        self._pipeline = pipeline
        self._lock = threading.Lock()
        self._start = Start(pipeline)
        names = [FOLDER, "report", *(["cleaned"] if pipeline.shows_faces else [])]
        root = pipeline.store.root
        mounts = [
            Mount(f"{PAGES}{n}", StaticFiles(directory=root / n, html=True, check_dir=False))
            for n in names
        ]
        self._files = Starlette(
            routes=[
                Route(PAGES, self._first),
                Route(f"{PAGES}assets/{{asset:path}}", self._asset),
                *mounts,
            ]
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http" or not scope["path"].startswith(PAGES):
            await self._app(scope, receive, send)
            return
        shows = scope["path"].startswith(f"{PAGES}{FOLDER}/")
        if shows and scope["path"].endswith(("/", ".html")):
            try:
                await run_in_threadpool(self._refresh)
            except (FerError, OSError) as error:
                await PlainTextResponse(f"{error}\n", 500)(scope, receive, send)
                return
        await self._files(scope, receive, send)

    async def _first(self, request: Request) -> HTMLResponse:
        return HTMLResponse(
            await run_in_threadpool(self._begin, again="again" in request.query_params)
        )

    async def _asset(self, request: Request) -> RedirectResponse:
        """Redirect to an asset's page: files in the artifact root do not know its address."""
        profile, asset = self._pipeline.profile.name, request.path_params["asset"]
        return RedirectResponse(quote(asset_path(profile, asset)))

    def _begin(self, *, again: bool) -> str:
        """Return the start page; ``again`` verifies every byte anew, also for the evidence."""
        if again:
            # What cannot be written is told on the start page, by what it rests on.
            with self._lock, suppress(FerError, OSError):
                write(self._pipeline)
        return self._start.page(state_of(self._pipeline), again=again)

    def _refresh(self) -> None:
        # Whoever comes while the pages are written is shown those of before.
        known = (self._pipeline.store.root / INDEX).is_file()
        if self._lock.acquire(blocking=not known):
            try:
                refresh(self._pipeline)
            finally:
                self._lock.release()
