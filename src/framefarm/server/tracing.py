"""OpenTelemetry traces, if the operator set a collector. OpenTelemetry is imported only by `start`."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from opentelemetry import trace

_tracer: trace.Tracer | None = None


class Span:
    """A span; it does nothing while no traces are made."""

    def __init__(self, span: trace.Span | None = None) -> None:
        self._span = span

    def name(self, text: str) -> None:
        """Rename the span."""
        if self._span is not None:
            self._span.update_name(text)


def start(endpoint: str) -> None:
    """Send traces to an OTLP collector over HTTP from now on. Raises ModuleNotFoundError."""
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    provider = TracerProvider(resource=Resource.create({"service.name": "framefarm"}))
    exporter = OTLPSpanExporter(endpoint=f"{endpoint.rstrip('/')}/v1/traces")
    provider.add_span_processor(BatchSpanProcessor(exporter))
    global _tracer
    _tracer = provider.get_tracer("framefarm")


_no_span = contextlib.nullcontext(Span())


def span(name: str, **attributes: str | int) -> contextlib.AbstractContextManager[Span]:
    """A span of the work in its `with` block, below the enclosing span."""
    return _no_span if _tracer is None else _open(_tracer, name, attributes)


@contextlib.contextmanager
def _open(tracer: trace.Tracer, name: str, attributes: dict[str, str | int]) -> Iterator[Span]:
    with tracer.start_as_current_span(name, attributes=attributes) as span:
        yield Span(span)
