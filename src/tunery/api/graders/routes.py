"""Runs a grader on one sample, or only checks it. What goes wrong inside a grader is part of its result, not an error
of the request."""

import time
from dataclasses import dataclass, field
from typing import Any

from fastapi import Request

from tunery.api.access import JobsWriter
from tunery.api.body import MAX_PROMPT_BYTES, takes_up_to
from tunery.api.context import ContextDep
from tunery.api.graders import formula
from tunery.api.graders.judge import Judge, JudgeFailed
from tunery.api.graders.schemas import (
    Errors,
    Grader,
    GraderResult,
    GraderRun,
    GraderValidate,
    Metadata,
    Multi,
    Python,
    ScoreModel,
    StringCheck,
    TextSimilarity,
    Validated,
)
from tunery.api.graders.similarity import Comparers
from tunery.api.graders.template import NAMESPACES, UnknownVariable, render, sample_of, variables
from tunery.api.routing import Router
from tunery.domain.errors import InvalidRequest, ServerFault
from tunery.sandbox.pool import GraderFailed, Sandbox, SandboxFailed
from tunery.texts import say

router = Router(prefix="/v1/fine_tuning/alpha/graders", tags=["Graders"])

MAX_SOURCE_BYTES = 256 * 1024  # OpenAI's
MAX_GRADERS = 32  # of one multi grader; they run one after the other


@router.post("/run")
@takes_up_to(MAX_PROMPT_BYTES)
async def run_grader(body: GraderRun, request: Request, caller: JobsWriter, context: ContextDep) -> GraderResult:
    check(body.grader)
    started = time.perf_counter()
    outcome = Outcome()
    values = {"item": body.item, "sample": sample_of(body.model_sample)}
    judge = Judge(context, caller, request.state.request_id)
    if isinstance(body.grader, Multi):
        reward = await _run_multi(body.grader, values, judge, outcome)
        sub_rewards = dict(outcome.scores)
    else:
        reward = await _run_single(body.grader, values, judge, outcome)
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
    await _check_sources(body.grader, context.shared(Sandbox), caller.project_id)
    sent: dict[str, Any] = body.grader.model_dump(exclude_unset=True)
    return Validated(grader=sent)


@dataclass
class Outcome:
    """What graders have left behind so far."""

    errors: Errors = field(default_factory=Errors)
    scores: dict[str, float] = field(default_factory=dict)
    tokens_by_model: dict[str, dict[str, int]] = field(default_factory=dict)


def check(grader: Grader, where: str = "grader") -> None:
    """Raises InvalidRequest for a grader that could never give a number."""
    if isinstance(grader, Python):
        if len(grader.source.encode()) > MAX_SOURCE_BYTES:
            raise InvalidRequest(
                say("error.source_too_long", most=MAX_SOURCE_BYTES // 1024),
                param=f"{where}.source",
                code="string_above_max_length",
            )
        return
    if isinstance(grader, Multi):
        if len(grader.by_name()) > MAX_GRADERS:
            raise InvalidRequest(
                f"A multi grader may have at most {MAX_GRADERS} graders; this one has {len(grader.by_name())}.",
                param=f"{where}.graders",
                code="object_above_max_properties",
            )
        _check_formula(grader)
        for name, inner in grader.by_name().items():
            check(inner, f"{where}.graders.{name}")
        return
    if isinstance(grader, ScoreModel) and grader.range and grader.range[0] >= grader.range[1]:
        raise InvalidRequest(say("error.range_not_rising"), param=f"{where}.range", code="invalid_value")
    for text in _texts(grader):
        for name in variables(text):
            if name.partition(".")[0].partition("[")[0] not in NAMESPACES:
                raise InvalidRequest(say("error.template_unknown_name", name=name), param=where, code="invalid_value")


async def _check_sources(grader: Grader, sandbox: Sandbox, project_id: str) -> None:
    """Raises InvalidRequest for Python that gives no `grade`, after it has run in the sandbox."""
    named = grader.by_name() if isinstance(grader, Multi) else {"": grader}
    for name, inner in named.items():
        where = f"grader.graders.{name}" if name else "grader"
        try:
            if isinstance(inner, Python):
                await sandbox.check(inner.source, project_id=project_id)
        except GraderFailed as exc:
            problem = say("error.source_unusable", problem=str(exc))
            raise InvalidRequest(problem, param=f"{where}.source", code="invalid_value") from exc
        except SandboxFailed as exc:
            raise ServerFault(say("error.sandbox_failed", reason=str(exc))) from exc


def _check_formula(grader: Multi) -> None:
    try:
        node = formula.parse(grader.calculate_output)
        formula.check(node)
    except formula.FormulaError as exc:
        problem = say("error.formula", problem=exc.problem)
        raise InvalidRequest(problem, param="grader.calculate_output", code="invalid_value") from exc
    if unknown := sorted(formula.names(node) - set(grader.by_name())):
        raise InvalidRequest(
            say("error.formula_unknown_grader", unknown=unknown[0]),
            param="grader.calculate_output",
            code="invalid_value",
        )


def _texts(grader: StringCheck | TextSimilarity | ScoreModel) -> list[str]:
    if isinstance(grader, ScoreModel):
        return [message.text for message in grader.input]
    return [grader.input, grader.reference]


async def _run_multi(grader: Multi, values: dict[str, Any], judge: Judge, outcome: Outcome) -> float:
    for name, inner in grader.by_name().items():
        await judge.check_rights()
        outcome.scores[name] = await _run_single(inner, values, judge, outcome)
    try:
        return formula.evaluate(formula.parse(grader.calculate_output), outcome.scores)
    except formula.FormulaError:
        outcome.errors.formula_parse_error = True
        return 0.0


async def _run_single(grader: Any, values: dict[str, Any], judge: Judge, outcome: Outcome) -> float:
    """0 where the grader cannot judge; `outcome.errors` then says why."""
    try:
        if isinstance(grader, StringCheck):
            return _string_check(grader, values)
        if isinstance(grader, TextSimilarity):
            text, reference = render(grader.input, values), render(grader.reference, values)
            if grader.evaluation_metric == "cosine":
                return await judge.cosine(text, reference)
            comparers, project_id = judge.context.shared(Comparers), judge.caller.project_id
            return await comparers.similarity(grader.evaluation_metric, text, reference, project_id=project_id)
        if isinstance(grader, Python):
            sandbox, project_id = judge.context.shared(Sandbox), judge.caller.project_id
            return await sandbox.grade(grader.source, values["sample"], values["item"], project_id=project_id)
        verdict = await judge.score(grader, values)
    except UnknownVariable:
        outcome.errors.invalid_variable_error = True
        outcome.errors.sample_parse_error |= "output_json" not in values["sample"]
        return 0.0
    except JudgeFailed as exc:
        setattr(outcome.errors, exc.kind, True)
        outcome.errors.model_grader_server_error_details = exc.details
        return 0.0
    except GraderFailed as exc:
        outcome.errors.python_grader_runtime_error = True
        outcome.errors.python_grader_runtime_error_details = str(exc)
        return 0.0
    except SandboxFailed as exc:
        outcome.errors.python_grader_server_error = True
        outcome.errors.python_grader_server_error_type = str(exc)
        return 0.0
    outcome.tokens_by_model[grader.model] = verdict.usage
    return verdict.score


def _string_check(grader: StringCheck, values: dict[str, Any]) -> float:
    text, reference = render(grader.input, values), render(grader.reference, values)
    if grader.operation == "eq":
        return float(text == reference)
    if grader.operation in ("ne", "neq"):
        return float(text != reference)
    if grader.operation == "like":
        return float(reference in text)
    return float(reference.casefold() in text.casefold())
