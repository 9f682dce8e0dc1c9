"""What graders have in common, wherever they are run: what is checked before, and one sample's grade. What goes wrong
inside a grader is part of its result."""

from dataclasses import dataclass, field
from typing import Any

from tunery.api.graders import formula
from tunery.api.graders.judge import Judge, JudgeFailed, LiveJudge, Verdict
from tunery.api.graders.schemas import (
    Errors,
    Grader,
    LabelModel,
    Multi,
    Python,
    ScoreModel,
    StringCheck,
    TextSimilarity,
)
from tunery.api.graders.similarity import Comparers
from tunery.api.graders.template import NAMESPACES, UnknownVariable, render, variables
from tunery.domain.errors import InvalidRequest, ServerFault
from tunery.sandbox.pool import GraderFailed, Sandbox, SandboxFailed
from tunery.texts import say

Single = StringCheck | TextSimilarity | ScoreModel | Python | LabelModel
MAX_SOURCE_BYTES = 256 * 1024  # OpenAI's
MAX_GRADERS = 32  # of one multi grader; they run one after the other


@dataclass
class Outcome:
    """What graders have left behind so far."""

    errors: Errors = field(default_factory=Errors)
    scores: dict[str, float] = field(default_factory=dict)
    tokens_by_model: dict[str, dict[str, int]] = field(default_factory=dict)
    verdict: Verdict | None = None  # of the last judge


def check(grader: Grader | LabelModel, where: str = "grader") -> None:
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
    if isinstance(grader, LabelModel):
        _check_labels(grader, where)
    if isinstance(grader, ScoreModel) and grader.range and grader.range[0] >= grader.range[1]:
        raise InvalidRequest(say("error.range_not_rising"), param=f"{where}.range", code="invalid_value")
    for text in texts(grader):
        for name in variables(text):
            if name.partition(".")[0].partition("[")[0] not in NAMESPACES:
                raise InvalidRequest(say("error.template_unknown_name", name=name), param=where, code="invalid_value")


def _check_labels(grader: LabelModel, where: str) -> None:
    if strange := [label for label in grader.passing_labels if label not in grader.labels]:
        problem = say("error.passing_label_unknown", label=repr(strange[0][:100]))
        raise InvalidRequest(problem, param=f"{where}.passing_labels", code="invalid_value")


async def check_sources(grader: Grader, sandbox: Sandbox, project_id: str, where: str = "grader") -> None:
    """Raises InvalidRequest for Python that gives no `grade`, after it has run in the sandbox."""
    named = grader.by_name() if isinstance(grader, Multi) else {"": grader}
    for name, inner in named.items():
        place = f"{where}.graders.{name}" if name else where
        try:
            if isinstance(inner, Python):
                await sandbox.check(inner.source, project_id=project_id)
        except GraderFailed as exc:
            problem = say("error.source_unusable", problem=str(exc))
            raise InvalidRequest(problem, param=f"{place}.source", code="invalid_value") from exc
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


def texts(grader: StringCheck | TextSimilarity | ScoreModel | LabelModel) -> list[str]:
    """Its templates."""
    if isinstance(grader, ScoreModel | LabelModel):
        return [message.text for message in grader.input]
    return [grader.input, grader.reference]


async def run_multi(grader: Multi, values: dict[str, Any], judge: LiveJudge, outcome: Outcome) -> float:
    for name, inner in grader.by_name().items():
        await judge.check_rights()
        outcome.scores[name] = await run_single(inner, values, judge, outcome)
    try:
        return formula.evaluate(formula.parse(grader.calculate_output), outcome.scores)
    except formula.FormulaError:
        outcome.errors.formula_parse_error = True
        return 0.0


async def run_single(grader: Single, values: dict[str, Any], judge: Judge, outcome: Outcome) -> float:
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
        if isinstance(grader, LabelModel):
            verdict = await judge.label(grader, values)
        else:
            verdict = await judge.score(grader, values)
    except UnknownVariable:
        outcome.errors.invalid_variable_error = True
        outcome.errors.sample_parse_error |= "output_json" not in values["sample"]
        return 0.0
    except JudgeFailed as exc:
        setattr(outcome.errors, exc.kind, True)
        outcome.verdict = exc.verdict
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
    outcome.verdict = verdict
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
