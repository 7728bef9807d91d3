"""OpenTelemetry traces: a span for each request, following the conventions for generative AI.

Spans hold no prompt, answer or key. OpenTelemetry is loaded only if an endpoint is set.
https://opentelemetry.io/docs/specs/semconv/gen-ai/ (the names are still in development).
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from serval.errors import SettingsError
from serval.settings import Settings
from serval.telemetry.record import RequestRecord

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import Span

_PROVIDER: Final = "serval"
_FIRST_TOKEN: Final = "gen_ai.first_token"  # noqa: S105  # the name of an event


class Tracing:
    """Creates spans of requests, and sends them from its own thread."""

    def __init__(self, endpoint: str) -> None:
        """`endpoint`: the base URL of an OTLP/HTTP receiver. Raises `SettingsError` without OpenTelemetry."""
        try:
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
            from opentelemetry.sdk.resources import Resource
            from opentelemetry.sdk.trace import TracerProvider
            from opentelemetry.sdk.trace.export import BatchSpanProcessor
        except ImportError as error:
            raise SettingsError(
                "traces need OpenTelemetry; install it with: pip install 'serval-llm[otel]'"
            ) from error
        exporter = OTLPSpanExporter(endpoint=f"{endpoint.rstrip('/')}/v1/traces")
        self._provider: TracerProvider = TracerProvider(
            resource=Resource.create({"service.name": "serval-gateway"}), shutdown_on_exit=False
        )
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("serval")

    @contextmanager
    def span(self, operation: str, record: RequestRecord, *, traceparent: str | None) -> Iterator[None]:
        """Create the span of one request, in the client's trace; sets the record's `traceparent`.

        `operation` is its `gen_ai.operation.name`.
        """
        from opentelemetry.trace import SpanKind
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        propagator = TraceContextTextMapPropagator()
        parent = propagator.extract({} if traceparent is None else {"traceparent": traceparent})
        # The record's start, which its times count from, and not now.
        began_ns = time.time_ns() - int(record.elapsed_s() * 1e9)
        span = self._tracer.start_span(operation, context=parent, kind=SpanKind.SERVER, start_time=began_ns)
        context = span.get_span_context()
        record.traceparent = f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"
        try:
            yield
        finally:
            _describe(span, record, operation, began_ns)  # type: ignore[arg-type]  # it is the SDK's
            span.end()

    def close(self) -> None:
        """Send the remaining spans."""
        self._provider.shutdown()


def _describe(span: "Span", record: RequestRecord, operation: str, began_ns: int) -> None:
    from opentelemetry.trace import StatusCode

    attributes: dict[str, str | int | bool | Sequence[str]] = {
        "gen_ai.operation.name": operation,
        "gen_ai.provider.name": _PROVIDER,
        "gen_ai.usage.input_tokens": record.prompt_tokens,
        "gen_ai.usage.output_tokens": record.completion_tokens,
        "http.request.method": record.method,
        "http.route": record.route,
        "serval.request_id": record.request_id,
        "serval.stream": record.stream,
    }
    if record.status:
        attributes["http.response.status_code"] = record.status
    if record.model is not None:
        # The record has the name of the served model, whatever name was asked for.
        attributes["gen_ai.request.model"] = attributes["gen_ai.response.model"] = record.model
        span.update_name(f"{operation} {record.model}")
    if record.engine_request_id is not None:
        attributes["gen_ai.response.id"] = record.engine_request_id
    if record.finish_reason is not None:
        attributes["gen_ai.response.finish_reasons"] = [record.finish_reason]
    error = record.error_code or ("client_gone" if record.client_gone else None)
    if error is not None:
        attributes["error.type"] = error
    if record.error_code is not None and (record.status >= 500 or record.status == 200):
        span.set_status(StatusCode.ERROR)
    span.set_attributes(attributes)
    if record.first_token_s is not None:
        span.add_event(_FIRST_TOKEN, timestamp=began_ns + int(record.first_token_s * 1e9))


def open_tracing(settings: Settings) -> Tracing | None:
    """Return tracing to the endpoint in the settings; None without one. Raises `SettingsError`."""
    endpoint = settings.otlp_endpoint
    return None if endpoint is None else Tracing(endpoint)
