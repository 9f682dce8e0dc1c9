"""What a job leaves behind beside OpenAI's events: what its checkpoints answered to its sample prompts, and, for
owners, the log of a trainer that failed."""

from typing import Annotated, Any, Literal

from fastapi import Query
from pydantic import BaseModel, Field

from tunery.api.access import JobsReader, require_owner
from tunery.api.context import ContextDep
from tunery.api.paging import Resource
from tunery.api.routing import Router
from tunery.domain.errors import NotFound
from tunery.store import events
from tunery.store.database import read
from tunery.store.jobs import get_job
from tunery.texts import say

router = Router(prefix="/tunery/v1/jobs", tags=["Fine-tuning"])


class SampleOut(Resource):
    object: Literal["tunery.job_sample"] = "tunery.job_sample"
    step: int
    prompt: int = Field(description="Its place in `prompts`.")
    answer: str
    finish_reason: str
    completion_tokens: int
    created_at: int


class SampleList(BaseModel):
    object: Literal["list"] = "list"
    prompts: list[list[dict[str, Any]]] = Field(description="The messages of each, as the job was created with them.")
    data: list[SampleOut] = Field(description="In the order of steps, then of prompts.")


class TrainerLog(BaseModel):
    object: Literal["tunery.trainer_log"] = "tunery.trainer_log"
    job_id: str
    created_at: int = Field(description="When the trainer had failed.")
    log: str = Field(description="Its end, 64 KB at most.")


@router.get("/{job_id}/samples")
def list_samples(
    job_id: str,
    caller: JobsReader,
    context: ContextDep,
    after_step: Annotated[int, Query(ge=-1, le=2**62, description="Only those of later steps.")] = -1,
) -> SampleList:
    """What each checkpoint answered to the job's `sample_prompts`."""
    with read(context.database) as conn:
        job = get_job(conn, job_id, caller.project_id)
        found = events.list_samples(conn, job_id, after_step=after_step)
    return SampleList(prompts=job.sample_prompts or [], data=[SampleOut.of(answer) for answer in found])


@router.get("/{job_id}/log")
def get_log(job_id: str, caller: JobsReader, context: ContextDep) -> TrainerLog:
    """The end of the log of the job's newest trainer that failed. For owners: it names files and machines."""
    require_owner(caller)
    with read(context.database) as conn:
        get_job(conn, job_id, caller.project_id)
        found = events.find_trainer_log(conn, job_id)
    if found is None:
        raise NotFound(say("error.no_trainer_log", job_id=job_id), param="job_id")
    log, created_at = found
    return TrainerLog(job_id=job_id, created_at=created_at, log=log)
