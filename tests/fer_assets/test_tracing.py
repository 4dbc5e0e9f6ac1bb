"""Spans as a collector receives them: over HTTP, as protobuf."""

import http.server
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from fer_assets import tracing
from fer_assets.pipeline import Pipeline
from fer_assets.running import materialize
from fer_ml.base.settings import settings
from fer_ml.storage.gates import word_of
from tests.refusals import refused

pytest.importorskip("opentelemetry.exporter.otlp.proto.http", reason="the extra otel is absent")


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """An OTLP receiver; gives the requests that it decoded."""
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
        ExportTraceServiceRequest,
        ExportTraceServiceResponse,
    )

    received: list[Any] = []

    class Receive(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            data = self.rfile.read(int(self.headers["Content-Length"]))
            assert (self.path, self.headers["Content-Type"]) == (
                "/v1/traces",
                "application/x-protobuf",
            )
            received.append(ExportTraceServiceRequest.FromString(data))
            self.send_response(200)
            self.end_headers()
            self.wfile.write(ExportTraceServiceResponse().SerializeToString())

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Receive)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", address)
    settings.cache_clear()
    tracing._exporter.cache_clear()
    tracing._tracer.cache_clear()
    yield received
    server.shutdown()
    thread.join()
    server.server_close()
    settings.cache_clear()


def attributes(span: Any) -> dict[str, Any]:
    found = {}
    for held in span.attributes:
        kind = held.value.WhichOneof("value")
        found[held.key.removeprefix("fer.")] = getattr(held.value, kind)
    return found


def test_a_run_is_a_trace_and_each_step_a_span_of_it(
    collector: list[Any], project: Callable[[str], Pipeline]
) -> None:
    pipeline = project("tiny")
    with dg.DagsterInstance.get() as instance:
        materialize(pipeline, instance, select=pipeline.named("manifest/expw_full"))
        (run,) = instance.get_runs()
    resources = [resource for request in collector for resource in request.resource_spans]
    named = {a.key: a.value.string_value for a in resources[0].resource.attributes}
    assert named["service.name"] == "fer-platform"
    spans = {span.name: span for r in resources for scope in r.scope_spans for span in scope.spans}
    assert set(spans) == {"make manifest/expw_full", "judge manifest/expw_full", "run data"}
    whole, make, judge = (
        spans[name] for name in ("run data", "make manifest/expw_full", "judge manifest/expw_full")
    )
    assert {span.trace_id.hex() for span in spans.values()} == {run.run_id.replace("-", "")}
    assert make.parent_span_id == judge.parent_span_id == whole.span_id
    assert len({span.span_id for span in spans.values()}) == 3
    assert whole.parent_span_id == b""
    assert whole.start_time_unix_nano <= make.start_time_unix_nano
    assert make.end_time_unix_nano <= judge.start_time_unix_nano < whole.end_time_unix_nano
    artifact = pipeline.store.current("manifest/expw_full")
    assert artifact is not None
    told = attributes(make)
    assert told["profile"] == "tiny"
    assert told["asset"] == "manifest/expw_full"
    assert told["sha256"] == artifact.sha256
    assert told["peak_memory_mb"] == artifact.record.summary["peak_memory_mb"]
    gates = {key: value for key, value in attributes(judge).items() if key.startswith("gate.")}
    assert gates == {f"gate.{r.rule}": word_of(r.passed) for r in artifact.receipts().values()}
    assert "failed" in gates.values(), "a warning gate of the sample does not pass"


def test_a_fault_is_told_by_its_type(
    collector: list[Any], project: Callable[[str], Pipeline]
) -> None:
    pipeline = project("tiny")
    with refused("asset-not-made"):
        pipeline.make(next(t for t in pipeline.targets() if t.asset == "ensemble"))
    (span,) = collector[-1].resource_spans[0].scope_spans[0].spans
    assert span.status.code == 2  # ERROR
    assert span.status.message == "FerError"
    assert str(Path(os.environ["FER_PROJECT"])) not in str(span)


def test_without_the_extra_it_is_said_before_any_work(tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "sys.modules['opentelemetry.exporter'] = None\n"
        "from fer_assets.tracing import check_tracing\n"
        "check_tracing()"
    )
    told = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        env={**os.environ, "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "pip install 'fer-platform[otel]'" in told.stderr
