"""The ends of a job, each in the caller's transaction: status, models, events, ledger and outbox together."""

import csv
import io
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from sqlalchemy import Connection

from tunery.domain.files import File, FilePurpose
from tunery.domain.ids import new_id
from tunery.domain.jobs import Checkpoint, FineTuningJob, JobError, JobStatus
from tunery.domain.models import FineTunedModel
from tunery.domain.names import new_name
from tunery.domain.usage import PICO
from tunery.jobs import event_texts
from tunery.jobs.parity import ParityReport
from tunery.jobs.resources import Resources
from tunery.metering import ledger
from tunery.metering.budget import warn_about_budget
from tunery.metering.limits import project_limits
from tunery.notify.announce import announce_end
from tunery.notify.summary import Amount
from tunery.store import claims, events, files, jobs, models, tenants
from tunery.store.database import read


def publish_checkpoints(
    conn: Connection,
    job: FineTuningJob,
    *,
    final_step: int | None = None,
    trained_tokens: int = 0,
    now: float,
) -> str:
    """Make the stored checkpoints usable as models, those that are not yet. That of final_step has the job's own name,
    which is returned; the names of the others end in their step. Only a job that succeeds has a final step."""
    organization = tenants.get_organization(conn, job.organization_id)
    final_name = ""
    kept = job.details.checkpoints
    for checkpoint in (each for each in kept if not each.published):
        is_final = checkpoint.step == final_step
        named = new_name(base=job.base_model, organization=organization.slug, suffix=job.suffix)
        name = str(named if is_final else replace(named, step=checkpoint.step))
        final_name = name if is_final else final_name
        models.insert_model(
            conn,
            FineTunedModel(
                id=checkpoint.model_id,
                name=name,
                project_id=job.project_id,
                created_at=int(now),
                base_model=job.base_model,
                source=job.details.source or "",
                job_id=job.id,
                step_number=checkpoint.step,
                blob=checkpoint.blob,
                owned_by=job.organization_id,
                trained_tokens=trained_tokens if is_final else 0,
                display_name=job.display_name,
                num_bytes=checkpoint.num_bytes,
            ),
        )
        events.delete_checkpoint(conn, job.id, checkpoint.step)  # the final one's, from a pause after the last step
        events.add_checkpoint(
            conn,
            Checkpoint(
                id=new_id("checkpoint"),
                job_id=job.id,
                created_at=int(now),
                step_number=checkpoint.step,
                fine_tuned_model_checkpoint=name,
                metrics={"step": checkpoint.step, **checkpoint.metrics},
            ),
        )
        events.add_event(conn, job.id, event_texts.checkpoint_created(checkpoint.step, name), now=now, data={})
    if kept:
        published = tuple(replace(checkpoint, published=True) for checkpoint in kept)
        jobs.update_details(conn, job.id, checkpoints=published)
    return final_name


FILENAME = "step_metrics.csv"
# Column of the file -> name in a metrics event.
COLUMNS = {
    "step": "step",
    "train_loss": "train_loss",
    "train_accuracy": "train_mean_token_accuracy",
    "valid_loss": "valid_loss",
    "valid_mean_token_accuracy": "valid_mean_token_accuracy",
}


def step_metrics_csv(rows: Iterable[Mapping[str, Any]]) -> bytes:
    """Five decimals, and an empty cell where nothing was measured. Of two rows for a step the later one counts:
    a job that resumed trains the steps after its last saved state again."""
    by_step = {int(row["step"]): row for row in rows}
    out = io.StringIO(newline="")
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(COLUMNS)
    for step in sorted(by_step):
        writer.writerow([step, *(_cell(by_step[step].get(key)) for key in list(COLUMNS.values())[1:])])
    return out.getvalue().encode()


def _cell(value: float | None) -> str:
    return "" if value is None else f"{value:.5f}"


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


def succeed(
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


def reject(
    conn: Connection, job_id: str, worker_id: str, error: JobError, *, problems: list[dict[str, Any]], now: float
) -> None:
    """The files cannot be used. `problems`: line, message and suggestion of the first ones, for the mail."""
    jobs.update_details(conn, job_id, problems=problems)
    job = claims.reject_job(conn, job_id, worker_id, error=error, now=now)
    tell_failure(conn, job, now=now)


def fail(
    conn: Connection,
    job_id: str,
    worker_id: str,
    error: JobError,
    *,
    now: float,
    resumable: bool = False,
    publish: bool = True,
) -> None:
    """`publish`: checkpoints that are safe become models of their own, so that what was trained is not lost."""
    job = claims.fail_job(conn, job_id, worker_id, error=error, now=now, resumable=resumable)
    if publish:
        publish_checkpoints(conn, job, now=now)
    tell_failure(conn, job, now=now)
    if resumable:
        events.add_event(conn, job_id, event_texts.KEPT, now=now)


def pause(conn: Connection, job_id: str, worker_id: str, *, now: float) -> None:
    tell_pause(conn, claims.pause_job(conn, job_id, worker_id, now=now), now=now)


def tell_stalled(conn: Connection, job: FineTuningJob, *, now: float) -> None:
    """What became of a job whose worker fell silent."""
    if job.status is JobStatus.CANCELLED:
        tell_cancellation(conn, job, now=now)
    elif job.status is JobStatus.PAUSED:
        tell_pause(conn, job, now=now)
    else:
        events.add_event(conn, job.id, event_texts.WORKER_LOST, now=now, level="warn")


def tell_failure(conn: Connection, job: FineTuningJob, *, now: float) -> None:
    assert job.error is not None
    data = {"error_code": job.error.code}
    events.add_event(conn, job.id, job.error.message, now=now, level="error", data=data, text=job.error.text)
    announce_end(conn, job, now=now)


def tell_pause(conn: Connection, job: FineTuningJob, *, now: float) -> None:
    """A pause leaves models to try, as OpenAI's does."""
    publish_checkpoints(conn, job, now=now)
    events.add_event(conn, job.id, event_texts.PAUSED, now=now)


def tell_cancellation(conn: Connection, job: FineTuningJob, *, now: float, by: str | None = None) -> None:
    """`by`: the user who cancelled it. Whoever cancels a job of their own knows, and gets no mail."""
    publish_checkpoints(conn, job, now=now)
    events.add_event(conn, job.id, event_texts.CANCELLED, now=now)
    announce_end(conn, job, now=now, mail=by is None or by != job.created_by)
