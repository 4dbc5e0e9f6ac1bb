"""Dagster's own webserver as ``fer ui`` serves it: what a page elsewhere cannot make it do.

The door before it has its tests in ``fer_ml/base/test_guard.py``, and the whole of it in a browser
in ``test_ui.py``.
"""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Thread
from urllib.error import HTTPError
from urllib.parse import urlencode
from urllib.request import Request, urlopen

import dagster as dg
import pytest
import uvicorn

from fer_assets.dagster_private.webserver import WorkspaceFileTarget, WorkspaceProcessContext
from fer_assets.serving import Webserver
from fer_ml.base.ports import open_port

#: Answered in any workspace, and it changes the instance where it is allowed.
MUTATION = (
    'mutation { setConcurrencyLimit(concurrencyKey: "sent", limit: 3) }',
    'query Q { version } mutation M { setConcurrencyLimit(concurrencyKey: "sent", limit: 3) }',
)


@pytest.fixture(scope="module")
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.instance_for_test() as held:
        yield held


Ask = Callable[..., tuple[int, str]]


@pytest.fixture(scope="module")
def ask(instance: dg.DagsterInstance, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ask]:
    empty = Path(tmp_path_factory.mktemp("workspace")) / "workspace.yaml"
    empty.write_text("load_from: []\n")
    target = WorkspaceFileTarget([str(empty)])
    with WorkspaceProcessContext(instance, target) as context, open_port(0) as listener:
        server = uvicorn.Server(
            uvicorn.Config(Webserver(context).create_asgi_app(), log_level="critical")
        )
        thread = Thread(target=server.run, args=([listener],))
        thread.start()
        port = listener.getsockname()[1]

        def asked(
            method: str, path: str, body: bytes | None = None, accept: str = "*/*"
        ) -> tuple[int, str]:
            headers = {"Content-Type": "application/json", "Accept": accept}
            request = Request(f"http://127.0.0.1:{port}{path}", body, headers, method=method)
            try:
                with urlopen(request, timeout=30) as answer:
                    return answer.status, answer.read().decode()
            except HTTPError as error:
                with error:
                    return error.code, error.read().decode()

        yield asked
        server.should_exit = True
        thread.join(10)


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE", "OPTIONS"])
@pytest.mark.threat("strangers, or a foreign page in the user's browser, use the UI or the demo")
def test_a_query_comes_by_post_only(ask: Ask, instance: dg.DagsterInstance, method: str) -> None:
    for document in MUTATION:
        sent = urlencode(
            {"query": document, "operationName": "M"} if "Q {" in document else {"query": document}
        )
        for path in ("/graphql", "/graphq%6c", "/%67raphql"):
            assert ask(method, f"{path}?{sent}")[0] == 405
        for path in ("/graphql/", "//graphql"):  # Pages of the UI, which ask by themselves.
            assert "GraphQL" not in ask(method, f"{path}?{sent}")[1]
    assert "sent" not in instance.event_log_storage.get_concurrency_keys()


def test_what_the_pages_ask_is_answered(ask: Ask, instance: dg.DagsterInstance) -> None:
    assert ask("GET", "/graphql?query={version}")[0] == 405
    status, text = ask("POST", "/graphql", json.dumps({"query": "{ version }"}).encode())
    assert status == 200 and json.loads(text) == {"data": {"version": ""}}
    status, text = ask("GET", "/graphql", accept="text/html")
    assert status == 200 and "GraphiQL" in text
    status, text = ask("POST", "/graphql", json.dumps({"query": MUTATION[0]}).encode())
    assert status == 200 and "sent" in instance.event_log_storage.get_concurrency_keys()
