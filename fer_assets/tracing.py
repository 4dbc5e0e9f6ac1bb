"""OpenTelemetry spans: a run is a trace with the run's id, and each of its steps is a span.

Spans are exported when they end, over OTLP (HTTP), if ``OTEL_EXPORTER_OTLP_ENDPOINT`` is set; other
OpenTelemetry variables are honoured too. Spans contain names of assets, hashes, gates and costs,
and no data.
"""

import hashlib
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from typing import TYPE_CHECKING, Any
from uuid import UUID

from fer_ml.base.errors import FerError
from fer_ml.base.settings import OTLP_ENDPOINTS, settings

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.trace import Tracer

EXTRA = "fer-platform[otel]"
#: The run whose own span is being started.
_ROOT: ContextVar[str | None] = ContextVar("run", default=None)


def check_tracing() -> None:
    """Raise ``FerError`` if spans are requested but cannot be exported."""
    if settings().tracing:
        _exporter()


@contextmanager
def span(
    name: str, run_id: str | None, attributes: Mapping[str, Any], *, is_run: bool = False
) -> Iterator[dict[str, Any]]:
    """Export the enclosed work as one span; yields a dict for attributes known only at its end.

    Without a run id the span is a trace of its own. Of an error only the type is exported, because
    its text may contain paths.
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
    """Export one finished span if spans are requested; attributes without a value are left out."""
    if not settings().tracing:
        return
    from opentelemetry.trace import Status, StatusCode

    token = _ROOT.set(run_id if is_run else None)
    try:
        made = _tracer().start_span(
            name,
            None if is_run else _below(run_id),
            attributes={f"fer.{k}": value for k, value in attributes.items() if value is not None},
            start_time=times_ns[0],
        )
    finally:
        _ROOT.reset(token)
    made.set_status(Status(StatusCode.ERROR, error) if error else Status(StatusCode.OK))
    made.end(times_ns[1])


def _ids(run_id: str) -> tuple[int, int]:
    """Return trace and span id of a run: all its processes compute the same ones."""
    digest = hashlib.sha256(f"run {run_id}".encode()).digest()
    return UUID(run_id).int, int.from_bytes(digest[:8], "big")


def _below(run_id: str | None) -> "Context | None":
    """Return the context of a run's steps: below its span, which another process may hold."""
    from opentelemetry.trace import (
        NonRecordingSpan,
        SpanContext,
        TraceFlags,
        set_span_in_context,
    )

    if run_id is None:
        return None
    trace, span_id = _ids(run_id)
    flags = TraceFlags(TraceFlags.SAMPLED)
    return set_span_in_context(NonRecordingSpan(SpanContext(trace, span_id, True, flags)))


@cache
def _tracer() -> "Tracer":
    from opentelemetry.sdk.resources import OTELResourceDetector, Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.id_generator import RandomIdGenerator

    class OfRuns(RandomIdGenerator):
        """An id generator that returns random ids, except for a run's own span."""

        def generate_trace_id(self) -> int:
            run = _ROOT.get()
            return _ids(run)[0] if run else super().generate_trace_id()

        def generate_span_id(self) -> int:
            run = _ROOT.get()
            return _ids(run)[1] if run else super().generate_span_id()

    named = Resource({"service.name": "fer-platform"}).merge(OTELResourceDetector().detect())
    provider = TracerProvider(resource=named, id_generator=OfRuns())
    provider.add_span_processor(SimpleSpanProcessor(_exporter()))
    return provider.get_tracer("fer-platform")


@cache
def _exporter() -> "OTLPSpanExporter":
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    except ModuleNotFoundError as error:
        raise FerError(
            f"spans cannot be exported, because {error.name} is not installed",
            code="missing-package",
            where=" or ".join(OTLP_ENDPOINTS),
            fix=f"pip install '{EXTRA}', or unset the variable",
        ) from error
    return OTLPSpanExporter()
