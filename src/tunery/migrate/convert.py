"""OpenAI's JSON → this server's nouns. Tolerates what the real service leaves out or fills with empty objects."""

from typing import Any, cast

from tunery.domain.completions import StoredCompletion
from tunery.domain.files import File, FilePurpose
from tunery.domain.hyperparameters import Hyperparameters
from tunery.domain.job_details import JobDetails
from tunery.domain.jobs import (
    METHODS,
    Checkpoint,
    EventType,
    FineTuningJob,
    JobError,
    JobEvent,
    JobStatus,
    Level,
    Method,
)
from tunery.migrate.deadlines import base_of
from tunery.migrate.retrain import hyperparameters_of, suffix_of
from tunery.migrate.source import Json
from tunery.store.blobs import BlobInfo


def file(described: Json, *, project_id: str, purpose: FilePurpose, blob: BlobInfo) -> File:
    return File(
        id=described["id"],
        project_id=project_id,
        created_at=int(described.get("created_at") or 0),
        filename=described.get("filename") or described["id"],
        purpose=purpose,
        bytes=int(described.get("bytes") or blob.bytes),
        sha256=blob.sha256,
        blob=blob.path,
        expires_at=described.get("expires_at"),
        status=described.get("status") or "processed",
        status_details=described.get("status_details"),
    )


def job(described: Json, *, project_id: str) -> FineTuningJob | None:
    """None for a method that this server does not have."""
    method = (described.get("method") or {}).get("type") or "supervised"
    if method not in METHODS:
        return None
    return FineTuningJob(
        id=described["id"],
        project_id=project_id,
        organization_id=described.get("organization_id") or "org-unknown",
        created_at=described["created_at"],
        status=JobStatus(described["status"]),
        model=described["model"],
        base_model=base_of(described["model"]),
        training_file=described["training_file"],
        validation_file=described.get("validation_file"),
        method=cast(Method, method),
        hyperparameters=_hyperparameters(described),
        seed=described.get("seed") or 0,
        suffix=suffix_of(described),
        finished_at=described.get("finished_at"),
        fine_tuned_model=described.get("fine_tuned_model"),
        trained_tokens=described.get("trained_tokens"),
        result_files=tuple(described.get("result_files") or ()),
        error=_error(described.get("error")),
        metadata=described.get("metadata"),
        integrations=described.get("integrations"),
        details=JobDetails(imported=described),
    )


def _hyperparameters(described: Json) -> Hyperparameters:
    asked = hyperparameters_of(described)
    names = ("n_epochs", "batch_size", "learning_rate_multiplier", "beta")
    return Hyperparameters(**{name: asked[name] for name in names if asked.get(name) is not None})


def _error(described: Any) -> JobError | None:
    """The real service says `{}` or an object of nulls for a healthy job."""
    if not described or not (described.get("code") or described.get("message")):
        return None
    return JobError(described.get("code") or "", described.get("message") or "", described.get("param"))


def event(described: Json, job_id: str) -> JobEvent:
    """A type that only OpenAI has, such as `moderation_checks`, becomes a message and stands in `data`."""
    kind, data = described.get("type") or "message", described.get("data")
    if kind not in ("message", "metrics"):
        kind, data = "message", {**(data or {}), "type": kind}
    return JobEvent(
        id=described["id"],
        job_id=job_id,
        created_at=described.get("created_at") or 0,
        message=described.get("message") or "",
        level=cast(Level, described.get("level") or "info"),
        type=cast(EventType, kind),
        data=data,
    )


def checkpoint(described: Json, job_id: str) -> Checkpoint:
    metrics = {name: value for name, value in (described.get("metrics") or {}).items() if value is not None}
    return Checkpoint(
        id=described["id"],
        job_id=job_id,
        created_at=described["created_at"],
        step_number=described["step_number"],
        fine_tuned_model_checkpoint=described["fine_tuned_model_checkpoint"],
        metrics=metrics,
    )


def completion(entry: Json, *, project_id: str) -> StoredCompletion:
    described = entry["completion"]
    messages = [{key: value for key, value in each.items() if key != "id"} for each in entry["messages"]]
    return StoredCompletion(
        id=described["id"],
        project_id=project_id,
        created_at=int(described.get("created") or 0),
        model=described.get("model") or "",
        request={"model": described.get("model") or "", "messages": messages},
        response=described,
        metadata=described.get("metadata"),
    )
