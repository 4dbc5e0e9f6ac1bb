"""Serve Dagster's webserver behind an access guard, and run its daemon, for ``fer ui``.

``dagster dev`` starts the webserver without protection: any web page in the user's browser could
start runs and read everything.
"""

import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Set
from contextlib import ExitStack, contextmanager
from pathlib import Path
from socket import socket

import dagster as dg
import uvicorn
import yaml
from dagster_webserver.version import __version__
from dagster_webserver.webserver import DagsterWebserver
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from fer_assets.dagster_private.webserver import (
    ModuleTarget,
    ProxyServerManager,
    WorkspaceFileTarget,
    WorkspaceProcessContext,
    serialize_value,
)
from fer_assets.evidence import Pages
from fer_assets.keys import LOCATION
from fer_assets.pipeline import Pipeline
from fer_assets.storage import dagster_home, opened
from fer_ml.base.errors import FerError
from fer_ml.base.guard import Guard
from fer_ml.base.ports import Server

#: How often a page asks for what is new, and how long a query of a database may take.
POLL_MS, STATEMENT_MS = 2000, 15_000
#: Seconds that the daemon has to end what it does.
PATIENCE = 60


class Webserver(DagsterWebserver):  # type: ignore[type-arg]
    """Dagster's webserver, which accepts GraphQL queries by POST only.

    A link or an ``<img>`` on a foreign page cannot send a POST.
    """

    async def graphql_http_endpoint(self, request: Request) -> Response:
        """Answer a query, or show the playground, whose page contains no query."""
        if request.method != "POST" and request.query_params:
            return PlainTextResponse("refused: a query comes by POST\n", 405)
        answer: Response = await super().graphql_http_endpoint(request)
        return answer


def serve(
    pipeline: Pipeline,
    listener: socket,
    *,
    token: str,
    names: Set[str],
    read_only: bool,
    on_ready: Callable[[], None],
) -> None:
    """Serve the UI and the evidence of a profile on ``listener`` until interrupted.

    ``on_ready`` is called when the pages can be opened. Unless the UI is read-only, Dagster's
    daemon for schedules and sensors runs beside it; the UI ends when the daemon ends.
    """
    with ExitStack() as stack:
        instance = stack.enter_context(opened(dagster_home()))
        target = ModuleTarget("fer_assets.definitions", pipeline.profile.name, None, LOCATION)
        code = stack.enter_context(ProxyServerManager(instance, target, "warning"))
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        shared = Path(folder) / "workspace.yaml"
        shared.write_text(yaml.safe_dump({"load_from": code.get_code_server_specs()}))
        # What the command line of Dagster's own webserver sets too.
        instance.optimize_for_webserver(STATEMENT_MS, pool_recycle=3600, max_overflow=20)
        context = WorkspaceProcessContext(
            instance,
            workspace_load_target=WorkspaceFileTarget([str(shared)]),
            version=__version__,
            read_only=read_only,
        )
        app = Webserver(stack.enter_context(context), live_data_poll_rate=POLL_MS).create_asgi_app()
        port = listener.getsockname()[1]
        config = uvicorn.Config(
            Guard(Pages(app, pipeline), token=token, port=port, names=names),
            log_level="warning",
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=2,
        )
        server = Server(config, on_ready)
        ended = stack.enter_context(_daemon(instance, shared, server)) if not read_only else None
        server.run(sockets=[listener])
        if ended is not None and ended.is_set():
            raise FerError(
                "the daemon of Dagster ended", code="daemon-ended", fix="read its messages above"
            )


@contextmanager
def _daemon(
    instance: dg.DagsterInstance, workspace: Path, server: uvicorn.Server
) -> Iterator[threading.Event]:
    """Run Dagster's daemon beside ``server`` and stop with it; whether it ended by itself."""
    ref = serialize_value(instance.get_ref())
    command = [sys.executable, "-m", "dagster._daemon", "run", "-w", str(workspace)]
    command += ["--instance-ref", ref, "--log-level", "warning"]
    group = getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0)
    process = subprocess.Popen(command, creationflags=group)
    stopping, ended = threading.Event(), threading.Event()

    def watch() -> None:
        process.wait()
        if not stopping.is_set():
            ended.set()
            server.should_exit = True

    threading.Thread(target=watch, daemon=True).start()
    try:
        yield ended
    finally:
        stopping.set()
        if process.poll() is None:
            process.send_signal(getattr(signal, "CTRL_BREAK_EVENT", signal.SIGINT))
        try:
            process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
