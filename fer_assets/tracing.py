"""Spans for OpenTelemetry: a run is a trace that has the run's id, and each of its steps a span.

They are exported when they end, over OTLP (HTTP), where ``OTEL_EXPORTER_OTLP_ENDPOINT`` is set;
OpenTelemetry's other variables hold too. They name assets, hashes, gates and costs, and no data.
"""

import hashlib
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

from fer_ml.base.errors import FerError
from fer_ml.base.settings import OTLP_ENDPOINTS, settings

if TYPE_CHECKING:
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

EXTRA = "fer-platform[otel]"


def check_tracing() -> None:
    """``FerError`` where spans are asked for and cannot be exported."""
    if settings().tracing:
        _exporter()


@contextmanager
def span(
    name: str, run_id: str | None, attributes: Mapping[str, Any], *, is_run: bool = False
) -> Iterator[dict[str, Any]]:
    """Export what happens inside as one span; gives a dict for what is known only at its end.

    Without a run it is a trace of its own. An error is told by its type alone: its text may hold
    paths.
    """
    check_tracing()
    known, started, error = dict(attributes), time.time_ns(), None
    try:
        yield known
    except BaseException as caught:
        error = type(caught).__name__
        raise
    finally:
        export(name, run_id, known, (started, time.time_ns()), error, is_run=is_run)


def export(
    name: str,
    run_id: str | None,
    attributes: Mapping[str, Any],
    times_ns: tuple[int, int],
    error: str | None,
    *,
    is_run: bool,
) -> None:
    """Export one span that ended, where spans are asked for; what has no value is left out."""
    if not settings().tracing:
        return
    from opentelemetry.sdk.resources import OTELResourceDetector, Resource
    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.trace import SpanContext, Status, StatusCode, TraceFlags

    trace = UUID(run_id).int if run_id else uuid4().int

    def context(span_id: bytes) -> SpanContext:
        number = int.from_bytes(span_id[:8], "big")
        return SpanContext(trace, number, is_remote=False, trace_flags=TraceFlags(1))

    # The same for every process of a run, none of which needs to hear it from another.
    of_run = context(hashlib.sha256(f"run {run_id}".encode()).digest())
    _exporter().export(
        [
            ReadableSpan(
                name,
                of_run if is_run else context(uuid4().bytes[8:]),
                None if is_run or run_id is None else of_run,
                Resource({"service.name": "fer-platform"}).merge(OTELResourceDetector().detect()),
                {f"fer.{key}": value for key, value in attributes.items() if value is not None},
                status=Status(StatusCode.ERROR, error) if error else Status(StatusCode.OK),
                start_time=times_ns[0],
                end_time=times_ns[1],
            )
        ]
    )


@cache
def _exporter() -> "OTLPSpanExporter":
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    except ModuleNotFoundError as error:
        raise FerError(
            f"spans are to be exported, and {error.name} is not installed",
            where=" or ".join(OTLP_ENDPOINTS),
            fix=f"pip install '{EXTRA}', or unset the variable",
        ) from error
    return OTLPSpanExporter()
