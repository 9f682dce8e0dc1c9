"""What Prometheus sees of the api: requests as they end, and the queue as the database has it when asked."""

from collections.abc import Iterator

from fastapi.responses import Response
from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric

from tunery.api.context import Context, ContextDep
from tunery.api.routing import Router
from tunery.domain.jobs import JobStatus
from tunery.store import jobs, outbox
from tunery.store.database import read

router = Router(tags=["Operation"])

requests = Counter("tunery_api_requests_total", "Requests that ended.", ["method", "route", "status"])
latency = Histogram(
    "tunery_api_request_seconds",
    "Time to the last byte.",
    ["method", "route"],
    buckets=(0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60),
)


def observe_request(method: str, route: str, status: int, duration_s: float) -> None:
    requests.labels(method, route, status).inc()
    latency.labels(method, route).observe(duration_s)


class QueueCollector:
    """Read at each scrape: every api process tells the same, so none needs to be the one that counts."""

    def __init__(self, context: Context) -> None:
        self._context = context

    def collect(self) -> Iterator[Metric]:
        now = self._context.clock()
        with read(self._context.database) as conn:
            counts = jobs.count_by_status(conn)
            oldest = jobs.oldest_queued_at(conn)
            lag_s = outbox.pending_lag_s(conn, now)
        by_status = GaugeMetricFamily("tunery_jobs", "Fine-tuning jobs by status.", labels=["status"])
        for status in JobStatus:
            by_status.add_metric([status.value], counts.get(status, 0))
        yield by_status
        age = 0.0 if oldest is None else max(0.0, now - oldest)
        yield GaugeMetricFamily("tunery_queue_age_seconds", "How long the oldest queued job waits.", value=age)
        yield GaugeMetricFamily("tunery_outbox_lag_seconds", "How long the oldest due notice waits.", value=lag_s)


@router.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
def show_metrics(context: ContextDep) -> Response:
    """Prometheus' text format. Needs no key, as Prometheus has none: bind the server where only it can reach it."""
    registry = CollectorRegistry()
    registry.register(QueueCollector(context))
    return Response(generate_latest(REGISTRY) + generate_latest(registry), media_type=CONTENT_TYPE_LATEST)
