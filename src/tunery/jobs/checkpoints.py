"""Adapters of a job that are safe in the blobs before the job has ended, and how they become models."""

from dataclasses import asdict, dataclass, replace

from sqlalchemy import Connection

from tunery.domain.ids import new_id
from tunery.domain.jobs import Checkpoint, FineTuningJob
from tunery.domain.models import FineTunedModel
from tunery.domain.names import new_name
from tunery.jobs import event_texts
from tunery.store import events, jobs, models, tenants


@dataclass(frozen=True)
class StoredCheckpoint:
    """An adapter that is safe in the blobs, under the id it will have as a model. Listed in the job's details."""

    step: int
    model_id: str
    metrics: dict[str, float]
    num_bytes: int = 0  # of the adapter
    published: bool = False  # it is a model already, since the job was paused or had failed: its weights must stay

    @property
    def blob(self) -> str:
        return f"adapters/{self.model_id}"


def stored_checkpoints(job: FineTuningJob) -> list[StoredCheckpoint]:
    """Lowest step first."""
    return sorted((StoredCheckpoint(**row) for row in job.details.get("checkpoints", [])), key=lambda c: c.step)


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
    kept = stored_checkpoints(job)
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
                source=job.details["source"],
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
        published = [asdict(replace(checkpoint, published=True)) for checkpoint in kept]
        jobs.update_details(conn, job.id, {"checkpoints": published})
    return final_name
