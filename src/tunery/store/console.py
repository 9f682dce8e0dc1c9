"""What the dashboard asks that OpenAI's API cannot answer: what models were trained on, and a curve in few points."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, func, select

from tunery.store.tables import files, job_events, jobs, models


@dataclass(frozen=True)
class TrainingFile:
    project_id: str
    model: str  # that the job was created on
    training_file: str
    sha256: str | None  # None: the file is no more, and the job older than the record of it


def training_files(conn: Connection, job_ids: Sequence[str]) -> dict[str, TrainingFile]:
    """By job. Of any project: whose file it is stands beside it."""
    columns = (jobs.c.id, jobs.c.project_id, jobs.c.model, jobs.c.training_file, files.c.sha256, jobs.c.details)
    joined = jobs.outerjoin(files, files.c.id == jobs.c.training_file)
    rows = conn.execute(select(*columns).select_from(joined).where(jobs.c.id.in_(job_ids)))
    return {row.id: TrainingFile(*row[1:4], row.sha256 or row.details.get("training_sha256")) for row in rows}


def makers(conn: Connection, names: Iterable[str]) -> dict[str, str | None]:
    """By model the job that made it, of any project; also of models that were deleted since."""
    whole = {name: name.partition(":ckpt-step-")[0] for name in names}
    by_job = select(jobs.c.fine_tuned_model, jobs.c.id).where(jobs.c.fine_tuned_model.in_(list(whole.values())))
    by_model = select(models.c.name, models.c.job_id).where(models.c.name.in_(list(whole)))
    made = {row.fine_tuned_model: row.id for row in conn.execute(by_job)}
    kept = {row.name: row.job_id for row in conn.execute(by_model)}
    return {name: kept.get(name) or made.get(named) for name, named in whole.items()}


def list_metrics(conn: Connection, job_id: str, *, max_points: int) -> list[dict[str, Any]]:
    """The `data` of metrics events, oldest first, thinned by the database to about `max_points`.

    The first, the last and every end of an epoch (where the whole validation file was measured) are always kept.
    """
    is_metrics = (job_events.c.job_id == job_id) & (job_events.c.type == "metrics")
    total = conn.execute(select(func.count()).select_from(job_events).where(is_metrics)).scalar_one()
    stride = max(1, -(-total // max_points))
    numbered = (
        select(
            job_events.c.seq,
            job_events.c.message,
            job_events.c.data,
            func.row_number().over(order_by=job_events.c.seq).label("position"),
        )
        .where(is_metrics)
        .subquery()
    )
    position = numbered.c.position
    wanted = (position % stride == 0) | position.in_((1, total)) | numbered.c.message.contains("full validation loss")
    rows = conn.execute(select(numbered.c.data).where(wanted).order_by(numbered.c.seq))
    return [row.data for row in rows if row.data]
