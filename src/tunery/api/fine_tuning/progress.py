"""What this server knows of a job beyond OpenAI's object: how far it is, why its numbers are what they are, advice."""

from typing import Any, Literal

from pydantic import BaseModel, Field

from tunery.api.access import JobsReader
from tunery.api.body import Texts
from tunery.api.context import ContextDep
from tunery.api.paging import Resource
from tunery.api.routing import Router
from tunery.domain.jobs import FineTuningJob
from tunery.store.database import read
from tunery.store.jobs import get_job

router = Router(prefix="/tunery/v1/fine_tuning/jobs", tags=["Fine-tuning"])


class LineProblem(BaseModel):
    line: int | None = Field(description="1-based; null when the whole file is meant.")
    message: str
    suggestion: str | None
    texts: Texts = {}


class DataAdvice(BaseModel):
    code: str
    message: str
    suggestion: str
    count: int = Field(description="Examples concerned.")
    lines: list[int]
    evidence: list[str]
    texts: Texts = {}


class JobProgress(Resource):
    object: Literal["tunery.job_progress"] = "tunery.job_progress"
    id: str
    status: str
    step: int = Field(description="Optimizer steps done.")
    total_steps: int | None = Field(description="Null until the job has started.")
    epoch: int | None
    elapsed_s: int | None = Field(description="Seconds since the first start, without pauses.")
    pausing: bool = Field(description="Asked to pause; it will have paused within seconds.")
    resumable: bool = Field(description="May be resumed: paused, or failed with its state kept.")
    eta_s: float | None = Field(description="Seconds of training left at the newest step; null unless running.")
    tokens_per_s: float | None
    attempts: int = Field(description="Deaths of the trainer since the last progress.")
    device: str | None = Field(description="`cpu` or `cuda`.")
    node: str | None = Field(description="The machine that trains it, or has trained it last.")
    reasons: dict[str, str] = Field(description="For each hyperparameter, why it has its value.")
    data_advice: list[DataAdvice] = Field(description="What the check of the files advises.")
    training_advice: dict[str, Any] | None = Field(description="Such as to stop when the validation loss has turned.")
    parity: dict[str, Any] | None = Field(description="How far the served model is from the trained one.")
    problems: list[LineProblem] = Field(description="The first lines to mend, when the files cannot be used.")
    texts: Texts


@router.get("/{job_id}")
def retrieve_progress(job_id: str, caller: JobsReader, context: ContextDep) -> JobProgress:
    with read(context.database) as conn:
        return wire_progress(get_job(conn, job_id, caller.project_id), context.clock())


def wire_progress(job: FineTuningJob, now: float) -> JobProgress:
    details = job.details
    newest = details.progress or {}
    differing = {
        "elapsed_s": job.elapsed_s(now),
        "pausing": job.is_pausing,
        "resumable": job.can_be_resumed,
        "epoch": newest.get("epoch"),
        "eta_s": newest.get("eta_s") if job.status == "running" else None,
        "tokens_per_s": newest.get("tokens_per_s"),
        "reasons": details.hyperparameter_reasons,
    }
    return JobProgress.of({**vars(job), **vars(details), **differing})
