"""Fine-tuning jobs: rows, lists, and what the API may ask of a job in any state.

What only the job's worker does (claim, heartbeat, finish) is in store.claims. The database referees every race:
each transition is one UPDATE that repeats the states it may start from.
"""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from sqlalchemy import Connection, Row, case, func, insert, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.sql import ColumnElement

from tunery.domain.errors import InvalidRequest, InvalidTransition, no_such_job
from tunery.domain.hyperparameters import Hyperparameters
from tunery.domain.job_details import JobDetails
from tunery.domain.jobs import TERMINAL, FineTuningJob, JobError, JobStatus, sources_of
from tunery.store.paging import Page, exists, fetch_page, has_pair, holds_text, own, update_row, values_of
from tunery.store.tables import files, idempotency_keys, jobs, models
from tunery.texts import say

NO_WORKER: dict[str, Any] = {"worker_id": None, "lease_expires_at": None}
SEARCHED = (
    *(jobs.c.id, jobs.c.display_name, jobs.c.notes, jobs.c.tags, jobs.c.suffix),
    *(jobs.c.fine_tuned_model, jobs.c.model, jobs.c.training_file),
)
NULL_METADATA = "null"  # the literal that a client sends to find jobs without metadata


def insert_job(conn: Connection, job: FineTuningJob) -> None:
    conn.execute(insert(jobs).values(to_row(job)))


def find_job(conn: Connection, job_id: str, project_id: str | None = None) -> FineTuningJob | None:
    query = select(jobs).where(jobs.c.id == job_id)
    if project_id is not None:
        query = query.where(jobs.c.project_id == project_id)
    row = conn.execute(query).first()
    return None if row is None else to_job(row)


def get_job(conn: Connection, job_id: str, project_id: str | None = None) -> FineTuningJob:
    """With `project_id`, another project's job does not exist. Raises no_such_job."""
    job = find_job(conn, job_id, project_id)
    if job is None:
        raise no_such_job(job_id)
    return job


def list_jobs(
    conn: Connection,
    project_id: str,
    *,
    after: str | None = None,
    limit: int = 20,
    metadata: dict[str, str] | str | None = None,
    statuses: tuple[JobStatus, ...] = (),
    text: str = "",
) -> Page[FineTuningJob]:
    """Newest first. `metadata`: pairs that must all match, or "null" for jobs that have none. `text` may stand anywhere
    in a job's id, names, notes, tags, suffix, models or training file, in either case; `key=value` finds a pair of its
    metadata as well."""
    query = select(jobs).where(jobs.c.project_id == project_id)
    if text:
        key, equals, value = text.partition("=")
        found = holds_text(text, *SEARCHED)
        query = query.where(found | has_pair(conn, jobs.c.metadata, key, value) if equals else found)
    if metadata == NULL_METADATA:
        query = query.where(jobs.c.metadata.is_(None))
    elif isinstance(metadata, dict):
        query = query.where(*(has_pair(conn, jobs.c.metadata, key, value) for key, value in metadata.items()))
    if statuses:
        query = query.where(jobs.c.status.in_(statuses))
    return fetch_page(conn, query, jobs, to_job, after=after, limit=limit)


@dataclass(frozen=True)
class TrainingFile:
    project_id: str
    model: str  # that the job was created on
    training_file: str
    sha256: str | None  # None: the file is no more, and the job older than the record of it
    split_from: list[str]  # see File.split_from


def training_files(conn: Connection, job_ids: Sequence[str]) -> dict[str, TrainingFile]:
    """By job. Of any project: whose file it is stands beside it."""
    columns = (jobs.c.id, jobs.c.project_id, jobs.c.model, jobs.c.training_file, files.c.sha256, jobs.c.details)
    joined = jobs.outerjoin(files, files.c.id == jobs.c.training_file)
    rows = conn.execute(select(*columns).select_from(joined).where(jobs.c.id.in_(job_ids)))
    found: dict[str, TrainingFile] = {}
    for row in rows:
        details = JobDetails.of(row.details)
        found[row.id] = TrainingFile(*row[1:4], row.sha256 or details.training_sha256, details.training_split_from)
    return found


def makers(conn: Connection, names: Iterable[str]) -> dict[str, str | None]:
    """By model the job that made it, of any project; also of models that were deleted since."""
    whole = {name: name.partition(":ckpt-step-")[0] for name in names}
    by_job = select(jobs.c.fine_tuned_model, jobs.c.id).where(jobs.c.fine_tuned_model.in_(list(whole.values())))
    by_model = select(models.c.name, models.c.job_id).where(models.c.name.in_(list(whole)))
    made = {row.fine_tuned_model: row.id for row in conn.execute(by_job)}
    kept = {row.name: row.job_id for row in conn.execute(by_model)}
    return {name: kept.get(name) or made.get(named) for name, named in whole.items()}


def jobs_from_model(conn: Connection, project_id: str, model: str, *, limit: int) -> list[FineTuningJob]:
    """Those that go on from it, newest first."""
    query = select(jobs).where(jobs.c.project_id == project_id, jobs.c.model == model)
    return [to_job(row) for row in conn.execute(query.order_by(jobs.c.seq.desc()).limit(limit))]


def list_unfinished(conn: Connection, project_id: str) -> tuple[str, ...]:
    """The ids of the project's jobs that have not ended."""
    query = select(jobs.c.id).where(jobs.c.project_id == project_id, jobs.c.status.not_in(TERMINAL))
    return tuple(conn.execute(query).scalars())


def unfinished_on(conn: Connection, base_model: str) -> list[str]:
    """Of all projects: the ids of those that have not ended, or can be resumed, on this name of a base."""
    # The states by name: for those that are none of some no index helps.
    open_states = [status for status in JobStatus if status not in TERMINAL]
    open_ones = jobs.c.status.in_(open_states) | ((jobs.c.status == JobStatus.FAILED) & jobs.c.resumable)
    return list(conn.execute(select(jobs.c.id).where(jobs.c.base_model == base_model, open_ones)).scalars())


def count_jobs(conn: Connection, project_id: str, *, created_since: float | None = None) -> int:
    query = select(func.count()).select_from(jobs).where(jobs.c.project_id == project_id)
    if created_since is not None:
        query = query.where(jobs.c.created_at >= int(created_since))
    return conn.execute(query).scalar_one()


def count_by_status(conn: Connection) -> dict[JobStatus, int]:
    """Over all projects, for metrics."""
    rows = conn.execute(select(jobs.c.status, func.count()).group_by(jobs.c.status))
    return {JobStatus(status): count for status, count in rows}


def oldest_queued_at(conn: Connection) -> int | None:
    query = select(func.min(jobs.c.created_at)).where(jobs.c.status == JobStatus.QUEUED)
    return conn.execute(query).scalar_one()


def is_file_in_use(conn: Connection, file_id: str, project_id: str) -> bool:
    """Whether a job that has not ended reads it."""
    query = select(jobs.c.id).where(
        jobs.c.project_id == project_id,
        jobs.c.status.not_in(TERMINAL),
        (jobs.c.training_file == file_id) | (jobs.c.validation_file == file_id),
    )
    return exists(conn, query)


def describe_job(conn: Connection, job_id: str, project_id: str, **words: Any) -> FineTuningJob:
    """Its owner's words for it, in any state: `display_name`, with which the models begin that it makes afterwards,
    `notes`, `tags` and `metadata`; those that are given. Raises no_such_job."""
    if "tags" in words:
        words["tags"] = "\n".join(words["tags"])
    row = update_row(conn, jobs, *own(jobs, job_id, project_id), **words)
    if row is None:
        raise no_such_job(job_id)
    return to_job(row)


def update_details(conn: Connection, job_id: str, **changes: Any) -> None:
    """Fields of JobDetails; only the job's worker calls this, so read and write need no guard."""
    stored = conn.execute(select(jobs.c.details).where(jobs.c.id == job_id)).scalar_one()
    details = replace(JobDetails.of(stored), **changes)
    conn.execute(update(jobs).where(jobs.c.id == job_id).values(details=details.to_json()))


def cancel_job(conn: Connection, job_id: str, project_id: str, now: float) -> FineTuningJob:
    """Cancelled here and now, in whatever state. A running job is taken away from its worker, whose next heartbeat
    finds that and which can write nothing more: that a cancel wins is decided by this one statement.

    Raises InvalidTransition when the job has ended.
    """
    values = {
        "status": JobStatus.CANCELLED,
        "finished_at": int(now),
        "estimated_finish": None,
        "pause_requested": False,
        **_pause_ends(jobs.c.paused_at, now),
        **NO_WORKER,
    }
    allowed = jobs.c.status.in_(sources_of(JobStatus.CANCELLED))
    return _verb(conn, job_id, project_id, allowed=allowed, values=values, participle="cancelled")


def pause_job(conn: Connection, job_id: str, project_id: str, now: float) -> FineTuningJob:
    """A running job gets the flag that its worker looks at; one that waits is paused at once. The result's status tells
    which."""
    running = jobs.c.status == JobStatus.RUNNING
    values = {
        "status": case((running, jobs.c.status), else_=JobStatus.PAUSED.value),
        "pause_requested": running,
        "paused_at": case((running, jobs.c.paused_at), else_=int(now)),
        **{name: case((running, jobs.c[name]), else_=None) for name in NO_WORKER},
    }
    allowed = jobs.c.status.in_(sources_of(JobStatus.PAUSED))
    return _verb(conn, job_id, project_id, allowed=allowed, values=values, participle="paused")


def resume_job(conn: Connection, job_id: str, project_id: str, now: float) -> FineTuningJob:
    """Back to the queue, or to validation when the job was paused before it. Also a failed job whose state is kept:
    then nothing of the failure counts any more."""
    target = case((jobs.c.validated, JobStatus.QUEUED.value), else_=JobStatus.VALIDATING_FILES.value)
    values = {
        "status": target,
        "pause_requested": False,
        "finished_at": None,
        "error": None,
        "resumable": False,
        "attempts": 0,
        "died_at_step": None,
        **_pause_ends(func.coalesce(jobs.c.paused_at, jobs.c.finished_at), now),
        **NO_WORKER,
    }
    allowed = (jobs.c.status == JobStatus.PAUSED) | ((jobs.c.status == JobStatus.FAILED) & jobs.c.resumable)
    return _verb(conn, job_id, project_id, allowed=allowed, values=values, participle="resumed")


def forget_states(conn: Connection, *, failed_before: float) -> None:
    """Jobs that failed before then can no longer be resumed."""
    old = jobs.c.resumable & (jobs.c.status == JobStatus.FAILED) & (jobs.c.finished_at < failed_before)
    conn.execute(update(jobs).where(old).values(resumable=False))


def _pause_ends(since: ColumnElement[Any], now: float) -> dict[str, Any]:
    """The clock goes on. Jobs that version 0.1 paused do not know since when."""
    return {"paused_s": jobs.c.paused_s + func.coalesce(int(now) - since, 0), "paused_at": None}


def _verb(
    conn: Connection,
    job_id: str,
    project_id: str,
    *,
    allowed: ColumnElement[bool],
    values: dict[str, Any],
    participle: str,
) -> FineTuningJob:
    row = update_row(conn, jobs, *own(jobs, job_id, project_id), allowed, **values)
    if row is not None:
        return to_job(row)
    job = get_job(conn, job_id, project_id)
    raise InvalidTransition(say(f"error.job_not_{participle}", job_id=job_id, status=say(f"state.{job.status}")))


def to_row(job: FineTuningJob) -> dict[str, Any]:
    return asdict(job) | {
        "status": job.status.value,
        "details": job.details.to_json(),
        "result_files": list(job.result_files),
        "tags": "\n".join(job.tags),
        "validated": job.status not in (JobStatus.VALIDATING_FILES, JobStatus.PAUSED),
    }


def to_job(row: Row[Any]) -> FineTuningJob:
    return FineTuningJob(
        **values_of(
            row,
            "validated",
            status=JobStatus(row.status),
            hyperparameters=Hyperparameters(**row.hyperparameters),
            result_files=tuple(row.result_files),
            tags=tuple(row.tags.split("\n")) if row.tags else (),
            error=None if row.error is None else JobError(**row.error),
            details=JobDetails.of(row.details),
        )
    )


# ---- a create that a client repeats because its reply was lost: its key leads to the job made the first time
def find_job_id(conn: Connection, project_id: str, key: str, request_hash: str) -> str | None:
    """Raises InvalidRequest when the key came with another request before."""
    table = idempotency_keys
    row = conn.execute(select(table).where(table.c.project_id == project_id, table.c.key == key)).first()
    if row is None:
        return None
    if row.request_hash != request_hash:
        raise InvalidRequest(say("error.idempotency_key_reused"), code="idempotency_error")
    return row.job_id


def remember_job(conn: Connection, project_id: str, key: str, *, request_hash: str, job_id: str, now: float) -> bool:
    """False when another request with the key was faster: roll back, and take that one's job."""
    values = {
        "project_id": project_id,
        "key": key,
        "request_hash": request_hash,
        "job_id": job_id,
        "created_at": int(now),
    }
    try:
        with conn.begin_nested():
            conn.execute(insert(idempotency_keys).values(values))
    except IntegrityError:
        return False
    return True
