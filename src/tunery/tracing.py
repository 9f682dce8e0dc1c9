"""OpenTelemetry traces across api, engine and worker, where OTEL_EXPORTER_OTLP_ENDPOINT is set; else nothing at all.

OpenTelemetry's own variables configure it, so every process of one start has the same. Spans hold routes, statuses and
ids; never a prompt, an answer or a key.
"""

import os
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from tunery.settings import SettingsError

ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"
Scope = dict[str, Any]
App = Callable[[Any, Any, Any], Awaitable[None]]


def is_on() -> bool:
    return bool(os.environ.get(ENDPOINT))


def configure(service: str) -> None:
    """Send this process's spans off, named as `service`. Called once, by the process's entry point."""
    if not is_on():
        return
    try:
        from opentelemetry import trace
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as exc:
        raise SettingsError(f"{ENDPOINT} is set, traces need: pip install 'tunery[otel]'.") from exc
    provider = TracerProvider(resource=Resource.create({"service.name": service}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(provider)


@contextmanager
def span(
    name: str,
    *,
    kind: str = "INTERNAL",
    parent: Mapping[str, str] | None = None,
    attributes: Mapping[str, str] | None = None,
) -> Iterator[Any]:
    """One piece of work. `parent`: headers with the `traceparent` of whoever asked for it. Gives None when off."""
    if not is_on():
        yield None
        return
    from opentelemetry import propagate, trace

    context = propagate.extract(dict(parent)) if parent and "traceparent" in parent else None
    tracer = trace.get_tracer("tunery")
    with tracer.start_as_current_span(name, context, kind=trace.SpanKind[kind], attributes=attributes) as current:
        yield current


def outgoing_headers() -> dict[str, str]:
    """`traceparent` of the current span, for a request to another process."""
    if not is_on():
        return {}
    from opentelemetry import propagate

    headers: dict[str, str] = {}
    propagate.inject(headers)
    return headers


class Traced:
    """ASGI: a span for each request, as a part of the caller's trace when it sent one."""

    def __init__(self, app: App) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Any, send: Any) -> None:
        if scope["type"] != "http" or not is_on():
            await self.app(scope, receive, send)
            return
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        status = 0

        async def note_status(message: Any) -> None:
            nonlocal status
            status = message.get("status", status)
            await send(message)

        with span(scope["method"], kind="SERVER", parent=headers) as current:
            try:
                await self.app(scope, receive, note_status)
            finally:
                self._describe(current, scope, status)

    def _describe(self, current: Any, scope: Scope, status: int) -> None:
        route = getattr(scope.get("route"), "path", None) or scope["path"]
        current.update_name(f"{scope['method']} {route}")
        current.set_attribute("http.request.method", scope["method"])
        current.set_attribute("http.route", route)
        current.set_attribute("http.response.status_code", status)
        state = scope.get("state") or {}
        if "request_id" in state:
            current.set_attribute("tunery.request_id", state["request_id"])
        if "caller" in state:
            current.set_attribute("tunery.project_id", state["caller"].project_id)
