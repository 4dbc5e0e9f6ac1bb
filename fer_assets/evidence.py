"""The evidence of a profile's claims as pages: written, kept up to date, and served."""

import shutil
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import HTMLResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Receive, Scope, Send

from fer_assets.pages import PAGES
from fer_assets.pipeline import Pipeline
from fer_assets.start import Start
from fer_ml.base.files import owned_name, stays_below
from fer_ml.base.reading import regular
from fer_ml.evidence.address import FOLDER
from fer_ml.privacy.log import read_log
from fer_ml.storage.artifact import PURGED_FILE

INDEX = f"{FOLDER}/index.html"


def write(pipeline: Pipeline) -> Path:
    """Write the pages into the artifact root, where they show the pictures of its pool."""
    _written(pipeline, pipeline.store.root, (), faces=True, local=True)
    return pipeline.store.root / INDEX


def export(pipeline: Pipeline, folder: Path, only: Sequence[str], *, faces: bool) -> Path:
    """Write a folder to pass on: the pages, the report, and copies of faces if asked for."""
    from fer_ml.evidence.pages import replace_folder

    folder = folder.resolve()
    root, made = pipeline.store.root, folder.with_name(f".{owned_name()}")
    folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        images = _written(pipeline, made, only, faces=faces, local=False)
        for name in sorted(images) if faces else ():
            if stays_below(name) and (root / name).is_file():
                (made / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(regular(root / name), made / name)
        report = pipeline.store.current("report")
        if report is not None:
            copy = made / report.folder.relative_to(root)
            copy.mkdir(parents=True)
            for name in ("report.html", "report.pdf"):
                shutil.copyfile(regular(report.file(name)), copy / name)
        replace_folder(made, folder, INDEX)
    finally:
        shutil.rmtree(made, ignore_errors=True)
    return folder / INDEX


def refresh(pipeline: Pipeline) -> Path:
    """Write the pages again where something that they show was made or judged since."""
    index = pipeline.store.root / INDEX
    if not index.is_file() or index.stat().st_mtime < max(_times(pipeline)):
        write(pipeline)
    return index


def _times(pipeline: Pipeline) -> Iterator[float]:
    """When what the pages show was changed."""
    root = pipeline.store.root
    places = [pipeline.claims_file(), pipeline.settings.home / PURGED_FILE]
    for depth in ("*", "*/*"):
        places += [*root.glob(f"{depth}/current.json"), *root.glob(f"{depth}/*/receipts")]
    yield from (path.stat().st_mtime for path in places if path.exists())


def _written(
    pipeline: Pipeline, base: Path, only: Sequence[str], *, faces: bool, local: bool
) -> set[str]:
    from fer_ml.claims.model import read_claims
    from fer_ml.claims.trace import Tracer
    from fer_ml.claims.verify import verify
    from fer_ml.evidence.numbers import numbers_of
    from fer_ml.evidence.pages import Around, report_of, write_evidence

    store = pipeline.store
    tracer = Tracer(store, pipeline.fingerprints())
    verified = verify(read_claims(pipeline.claims_file()), tracer)
    report = store.current("report")
    numbers = numbers_of(report) if report and not only else None
    profile, log = pipeline.profile, read_log(pipeline.settings.home)
    around = Around(profile.name, profile.drawn, faces, report_of(store), log, local)
    printed = verify(numbers, tracer).claims if numbers else ()
    return write_evidence(base, store, verified, around, only, printed)


class Pages:
    """What stands below ``/fer/``: the start page, evidence, reports, and faces where they may be.

    Addresses are as in the root, so that the pages lead to each other as they do from a folder.
    Everything else is answered by ``app``.
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
        self._files = Starlette(routes=[Route(PAGES, self._first), *mounts])

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http" or not scope["path"].startswith(PAGES):
            await self._app(scope, receive, send)
            return
        if scope["path"] != PAGES and scope["path"].endswith(("/", ".html")):
            await run_in_threadpool(self._refresh)
        await self._files(scope, receive, send)

    async def _first(self, request: Request) -> HTMLResponse:
        state, again = max(_times(self._pipeline), default=0), "again" in request.query_params
        return HTMLResponse(await run_in_threadpool(self._start.page, state, again=again))

    def _refresh(self) -> None:
        with self._lock:
            refresh(self._pipeline)
