"""OpenTelemetry traces, where the operator wants them. Nothing is imported before `start`."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

_tracer: Any = None


class Span:
    """A span, or nothing where no traces are made."""

    def __init__(self, span: Any = None) -> None:
        self._span = span

    def name(self, text: str) -> None:
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


_nothing = contextlib.nullcontext(Span())


def span(name: str, **attributes: Any) -> contextlib.AbstractContextManager[Span]:
    """A span around what follows, below the one around it."""
    return _nothing if _tracer is None else _open(name, attributes)


@contextlib.contextmanager
def _open(name: str, attributes: dict[str, Any]) -> Iterator[Span]:
    with _tracer.start_as_current_span(name, attributes=attributes) as made:
        yield Span(made)
