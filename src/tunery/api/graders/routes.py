"""Runs a grader on one sample, or only checks it. What goes wrong inside a grader is part of its result, not an error
of the request."""

import time
from typing import Any

from fastapi import Request

from tunery.api.access import JobsWriter
from tunery.api.body import MAX_PROMPT_BYTES, takes_up_to
from tunery.api.context import ContextDep
from tunery.api.graders.grading import Outcome, check, check_sources, run_multi, run_single
from tunery.api.graders.judge import LiveJudge
from tunery.api.graders.schemas import GraderResult, GraderRun, GraderValidate, Metadata, Multi, Validated
from tunery.api.graders.template import sample_of
from tunery.api.routing import Router
from tunery.sandbox.pool import Sandbox

router = Router(prefix="/v1/fine_tuning/alpha/graders", tags=["Graders"])


@router.post("/run")
@takes_up_to(MAX_PROMPT_BYTES)
async def run_grader(body: GraderRun, request: Request, caller: JobsWriter, context: ContextDep) -> GraderResult:
    check(body.grader)
    started = time.perf_counter()
    outcome = Outcome()
    values = {"item": body.item, "sample": sample_of(body.model_sample)}
    judge = LiveJudge(context, caller, request.state.request_id)
    if isinstance(body.grader, Multi):
        reward = await run_multi(body.grader, values, judge, outcome)
        sub_rewards = dict(outcome.scores)
    else:
        reward = await run_single(body.grader, values, judge, outcome)
        sub_rewards = {}
        outcome.scores[body.grader.name or body.grader.type] = reward
    tokens = sum(usage.get("total_tokens", 0) for usage in outcome.tokens_by_model.values())
    return GraderResult(
        metadata=Metadata(
            errors=outcome.errors,
            execution_time=time.perf_counter() - started,
            name=body.grader.name,
            sampled_model_name=next(iter(outcome.tokens_by_model), None),
            scores=outcome.scores,
            token_usage=tokens or None,
            type=body.grader.type,
        ),
        model_grader_token_usage_per_model=outcome.tokens_by_model,
        reward=reward,
        sub_rewards=sub_rewards,
    )


@router.post("/validate")
@takes_up_to(MAX_PROMPT_BYTES)
async def validate_grader(body: GraderValidate, caller: JobsWriter, context: ContextDep) -> Validated:
    check(body.grader)
    await check_sources(body.grader, context.shared(Sandbox), caller.project_id)
    sent: dict[str, Any] = body.grader.model_dump(exclude_unset=True)
    return Validated(grader=sent)
