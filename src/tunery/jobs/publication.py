"""Turns a finished training into what its owner gets: models, checkpoints, result file, usage, and the news of it."""

from collections.abc import Iterator
from typing import Any

from sqlalchemy import Connection

from tunery.domain.files import File, FilePurpose
from tunery.domain.ids import new_id
from tunery.domain.jobs import FineTuningJob
from tunery.domain.usage import PICO
from tunery.jobs import event_texts
from tunery.jobs.checkpoints import publish_checkpoints
from tunery.jobs.parity_check import ParityReport
from tunery.jobs.resources import Resources
from tunery.jobs.results import FILENAME, step_metrics_csv
from tunery.metering import ledger
from tunery.metering.budget import warn_about_budget
from tunery.metering.limits import project_limits
from tunery.notify.announce import announce_end
from tunery.notify.summary import Amount
from tunery.store import claims, events, files, jobs
from tunery.store.database import read

EVENTS_PER_READ = 500


def store_result_file(job: FineTuningJob, resources: Resources) -> File:
    """The bytes only: its row belongs into the transaction that ends the job."""
    rows = list(_metric_rows(job, resources))
    file_id = new_id("file")
    info = resources.blobs.put(f"files/{file_id}", step_metrics_csv(rows))
    return File(
        id=file_id,
        project_id=job.project_id,
        created_at=int(resources.clock()),
        filename=FILENAME,
        purpose=FilePurpose.FINE_TUNE_RESULTS,
        bytes=info.bytes,
        sha256=info.sha256,
        blob=info.path,
    )


def publish(
    conn: Connection,
    job: FineTuningJob,
    resources: Resources,
    worker_id: str,
    *,
    final_step: int,
    parity: ParityReport,
    result_file: File,
    trained_tokens: int,
) -> FineTuningJob:
    """The whole success in the caller's transaction: either all of it is seen or the job runs on."""
    now = resources.clock()
    job = jobs.get_job(conn, job.id)
    name = publish_checkpoints(conn, job, final_step=final_step, trained_tokens=trained_tokens, now=now)
    events.add_event(conn, job.id, event_texts.model_created(name), now=now, data={})
    if parity.is_checked:
        events.add_event(conn, job.id, event_texts.POLICIES, now=now, data={"check": "parity"})
    events.add_event(conn, job.id, parity.message, now=now, level=parity.level, data=parity.details)
    files.insert_file(conn, result_file)
    done = claims.finish_succeeded(
        conn,
        job.id,
        worker_id,
        fine_tuned_model=name,
        result_files=(result_file.id,),
        trained_tokens=trained_tokens,
        now=now,
    )
    cost = _bill(conn, done, resources, now=now)
    events.add_event(conn, job.id, event_texts.COMPLETED, now=now, data={})
    announce_end(conn, done, now=now, cost=cost)
    return done


def _bill(conn: Connection, job: FineTuningJob, resources: Resources, *, now: float) -> Amount:
    """Enter the trained tokens into the ledger, once a job; what they cost."""
    prices, settings = resources.prices, resources.settings
    record = ledger.record_training(conn, job, prices=prices, trained_tokens=job.trained_tokens or 0, now=now)
    limits = project_limits(conn, settings, job.project_id)
    warn_about_budget(conn, job.project_id, limits, currency=prices.currency, now=now)
    return Amount(record.cost.total / PICO, record.currency)


def _metric_rows(job: FineTuningJob, resources: Resources) -> Iterator[dict[str, Any]]:
    """Oldest last, as events are read; the result file sorts by step."""
    after: str | None = None
    while True:
        with read(resources.engine) as conn:
            page = events.list_events(conn, job.id, after=after, limit=EVENTS_PER_READ)
        yield from (event.data for event in page.items if event.type == "metrics" and event.data)
        if not page.has_more:
            return
        after = page.items[-1].id
