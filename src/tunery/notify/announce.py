"""Puts into the outbox what the world is to hear of a job, or a batch, that ended. Called in the transaction that ends
it.

Stands apart because who hears of an end, and how, changes without the jobs.
"""

from typing import Any

from sqlalchemy import Connection

from tunery.domain.ids import new_id
from tunery.domain.jobs import FineTuningJob
from tunery.domain.tenants import Role
from tunery.notify.summary import Amount, Problem, summarise
from tunery.store import outbox, tenants, webhooks


def announce(conn: Connection, project_id: str, topic: str, object_id: str, *, now: float) -> None:
    """One row for each endpoint of the project that asked for this event."""
    event = {
        "object": "event",
        "id": new_id("webhook_event"),
        "type": topic,
        "created_at": int(now),
        "data": {"id": object_id},
    }
    for endpoint in webhooks.endpoints_for(conn, project_id, topic):
        outbox.insert_outbox(conn, "webhook", topic, event, project_id=project_id, now=now, endpoint_id=endpoint.id)


def announce_end(
    conn: Connection, job: FineTuningJob, *, now: float, cost: Amount | None = None, mail: bool = True
) -> None:
    """One row for each endpoint of the project that asked for this event, one for the creator's mail.
    `job` is in its final state; metrics and problems are read from its details."""
    topic = f"fine_tuning.job.{job.status.value}"
    announce(conn, job.project_id, topic, job.id, now=now)
    recipient = _recipient(conn, job) if mail else None
    if recipient is not None:
        summary = summarise(
            job,
            cost=cost,
            metrics=job.details.metrics,
            problems=tuple(
                Problem(problem["line"], problem["message"], problem["suggestion"], problem.get("texts") or {})
                for problem in job.details.problems
            ),
        )
        outbox.insert_outbox(
            conn, "email", topic, summary.to_json(), project_id=job.project_id, now=now, recipient=recipient
        )


def announce_evaluation(conn: Connection, job: FineTuningJob, payload: dict[str, Any], *, now: float) -> None:
    """A mail to the job's creator with this subject and text: its eval has ended."""
    recipient = _recipient(conn, job)
    if recipient is not None:
        topic = "fine_tuning.evaluation"
        outbox.insert_outbox(conn, "email", topic, payload, project_id=job.project_id, now=now, recipient=recipient)


def _recipient(conn: Connection, job: FineTuningJob) -> str | None:
    """The creator's address. A service account reads no mail, and who has left the project hears nothing of it."""
    user = tenants.find_user(conn, job.created_by) if job.created_by else None
    if user is None or user.is_service_account or not user.email:
        return None
    belongs = user.role is Role.OWNER or tenants.find_membership(conn, job.project_id, user.id) is not None
    return user.email if belongs else None
