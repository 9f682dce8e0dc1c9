"""Adapters of a job that are safe in the blobs before the job has ended."""

from dataclasses import dataclass

from tunery.domain.jobs import FineTuningJob

KEPT = 3  # the last epochs', as OpenAI does


@dataclass(frozen=True)
class StoredCheckpoint:
    """An adapter that is safe in the blobs, under the id it will have as a model. Listed in the job's details."""

    step: int
    model_id: str
    metrics: dict[str, float]

    @property
    def blob(self) -> str:
        return f"adapters/{self.model_id}"


def stored_checkpoints(job: FineTuningJob) -> list[StoredCheckpoint]:
    """Lowest step first."""
    return sorted((StoredCheckpoint(**row) for row in job.details.get("checkpoints", [])), key=lambda c: c.step)
