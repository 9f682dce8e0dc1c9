"""Run a grader and check one. Apart because every resource has its routes in a `routes.py`."""

from typing import Any

from fastapi import Request

from tunery.api.access import JobsWriter
from tunery.api.body import MAX_PROMPT_BYTES, takes_up_to
from tunery.api.context import ContextDep
from tunery.api.graders import service
from tunery.api.graders.schemas import GraderResult, GraderRun, GraderValidate, Validated
from tunery.api.routing import Router

router = Router(prefix="/v1/fine_tuning/alpha/graders", tags=["Graders"])


@router.post("/run")
@takes_up_to(MAX_PROMPT_BYTES)
async def run_grader(body: GraderRun, request: Request, caller: JobsWriter, context: ContextDep) -> GraderResult:
    return await service.run(context, caller, request.state.request_id, body)


@router.post("/validate")
@takes_up_to(MAX_PROMPT_BYTES)
def validate_grader(body: GraderValidate, caller: JobsWriter) -> Validated:
    service.check(body.grader)
    sent: dict[str, Any] = body.grader.model_dump(exclude_unset=True)
    return Validated(grader=sent)
