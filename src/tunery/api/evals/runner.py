"""Carries out runs of evals, in the worker (`api.leased`): each row is answered by the model, where there is one to
ask, and graded by every criterion. What came of rows is written many at a time, with the run's counts."""

import asyncio
import logging
from collections.abc import Sequence
from functools import partial
from typing import Any

import orjson
from pydantic import TypeAdapter, ValidationError
from sqlalchemy import Connection
from sqlalchemy.exc import SQLAlchemyError

from tunery.api import inference
from tunery.api.errors import unexpected
from tunery.api.evals.checks import mismatch, scopes_of
from tunery.api.evals.of_job import tell_when_last
from tunery.api.evals.rows import EvalRow, Rows, open_rows
from tunery.api.evals.schemas import Criterion
from tunery.api.graders.grading import Outcome, run_single
from tunery.api.graders.judge import Judge, JudgeFailed, Verdict
from tunery.api.graders.schemas import LabelModel, Python, ScoreModel, StringCheck, TextSimilarity
from tunery.api.graders.similarity import MAX_WAITING_OF_ONE as COMPARED_AT_ONCE
from tunery.api.graders.template import UnknownVariable, look_up, render, sample_of
from tunery.api.inference import PATHS
from tunery.api.leased import RESPONSES, RETRY_S, LeasedWork, answer
from tunery.domain.errors import InvalidRequest, RateLimited, TuneryError, Unavailable
from tunery.domain.evals import EvalRun, ItemStatus, OutputItem, RunStatus
from tunery.domain.ids import new_id
from tunery.domain.json_body import as_list, as_object
from tunery.domain.tenants import Scope
from tunery.metering.ledger import RequestIds
from tunery.metering.meter import Admission
from tunery.metering.storage import claim_storage
from tunery.notify.announce import announce
from tunery.sandbox.pool import MAX_WAITING_OF_ONE as GRADED_AT_ONCE
from tunery.store import evals as store
from tunery.store.database import read, write
from tunery.store.evals import Graded
from tunery.texts import say
from tunery.wire.responses.items import answer_of
from tunery.wire.validation import from_problems

log = logging.getLogger(__name__)

Json = dict[str, Any]

CRITERION: TypeAdapter[Criterion] = TypeAdapter(Criterion)
SAMPLING = {"temperature": 1.0, "top_p": 1.0, "seed": 42}  # where a run does not say; OpenAI's
GRADER_TYPES = {
    "string_check": "string-check-grader",
    "text_similarity": "text-similarity-grader",
    "python": "python-grader",
    "score_model": "score-model-grader",
    "label_model": "label-model-grader",
}


class Places:
    """How many rows of a project a grader's processes take at once; the others wait here."""

    def __init__(self) -> None:
        self._of: dict[tuple[str, type], asyncio.Semaphore] = {}

    def of(self, project_id: str, kind: type) -> asyncio.Semaphore:
        number = {Python: GRADED_AT_ONCE, TextSimilarity: COMPARED_AT_ONCE}.get(kind, 10**6)
        return self._of.setdefault((project_id, kind), asyncio.Semaphore(number))


class RunWork(LeasedWork[EvalRun]):
    """On one run."""

    leases = store.LEASES
    _pending: list[Graded]

    async def carry_out(self) -> None:
        self._pending, self._writing = [], asyncio.Lock()
        rows = await asyncio.to_thread(self._begin)
        if rows is not None and self.end is None:
            done = await asyncio.to_thread(self._answered)
            await self.each((row for row in range(rows.number) if row not in done), partial(self._row, rows))
        await asyncio.to_thread(self._conclude)

    def notice(self, now: float) -> None:
        """Nothing: a run that is canceled, or deleted, has no lease any more."""

    def refuse(self, error: TuneryError) -> None:
        self._fail(error)

    def scopes(self, conn: Connection) -> tuple[Scope, ...]:
        asked = store.get_eval(conn, self.task.eval_id, self.task.project_id)
        return scopes_of(self.task.data_source, asked.testing_criteria)

    def _fail(self, error: TuneryError) -> None:
        self.stop(RunStatus.FAILED, [{"code": error.code or "invalid_request", "message": error.message}])

    def _begin(self) -> Rows | None:
        """None: the run has ended with it, or is no longer this worker's."""
        context, run = self.context, self.task
        with read(context.database) as conn:
            asked = store.get_eval(conn, run.eval_id, run.project_id)
        self._ids = [each["id"] for each in asked.testing_criteria]
        try:
            self._criteria = [
                CRITERION.validate_python({name: value for name, value in each.items() if name != "id"})
                for each in asked.testing_criteria
            ]
        except ValidationError as exc:  # of an eval from elsewhere, whose graders this server does not have
            self._fail(from_problems(exc.errors()))
            return None
        config = asked.data_source_config
        self._schema = as_object(config["schema"]["properties"]["item"]) if config["type"] == "custom" else {}
        try:
            rows = open_rows(context, run, config, self.folder)
        except TuneryError as error:
            self._fail(error)
            return None
        if run.status is RunStatus.QUEUED:
            with write(context.database) as conn:
                counts = {"num_rows": rows.number, "answer_ids": rows.answer_ids}
                store.start_run(conn, run.id, self.worker_id, context.clock(), **counts)
        return rows if self.look() else None

    def _answered(self) -> set[int]:
        with read(self.context.database) as conn:
            return store.answered_rows(conn, self.task.id)

    # ---- a row

    async def _row(self, rows: Rows, number: int) -> None:
        """Until it has an outcome, or the run ends without one."""
        came = _Row(self, number)
        try:
            row = await asyncio.to_thread(rows.read, number)
            came.item = row.item
            if problem := mismatch(row.item, self._schema):
                raise InvalidRequest(problem, code="invalid_row")
            await came.answer(row)
            await came.grade(self._criteria, self._ids)
        except _Ended:
            return
        except RateLimited as error:  # a spent budget: the rows to come would all be refused, too
            return self._fail(error)
        except TuneryError as error:
            came.sample["error"] = _error(error)
        except SQLAlchemyError:
            raise
        except Exception:  # a fault of ours at this row is no reason to grade no other
            log.exception("row %d of %s could not be graded", number, self.task.id)
            came.sample["error"] = _error(unexpected(f"{self.task.id} {number}"))
        await self._keep(came)

    async def _keep(self, came: "_Row") -> None:
        """Written with what others have to write: while one transaction is under way, rows gather for the next."""
        self._pending.append(Graded(came.output(), came.usage))

        async def store_all() -> None:
            async with self._writing:
                if self._pending:
                    batch, self._pending = self._pending, []
                    try:
                        await self.keep(f"row {came.number}", (), partial(self._write, batch))
                    except InvalidRequest as error:  # the project's storage is full
                        self._fail(error)

        is_kept = False
        try:
            await store_all()
            is_kept = True
        finally:
            meter = self.context.meter
            for admission in came.admissions:
                (meter.delivered if is_kept else meter.not_sent)(admission)

    def _write(self, batch: Sequence[Graded]) -> None:
        context, run = self.context, self.task
        num_bytes = sum(store.num_bytes(each.item) for each in batch)
        with write(context.database) as conn:
            now = context.clock()
            claim_storage(conn, context.settings, run.project_id, num_bytes, now=now, param="data_source")
            store.add_items(conn, run.id, self.worker_id, batch)

    # ---- its end

    def _conclude(self) -> None:
        context, run = self.context, self.task
        ended, errors = self.end or (RunStatus.COMPLETED, [])
        now, status = context.clock(), RunStatus(ended)
        topic = "succeeded" if status is RunStatus.COMPLETED else status
        with write(context.database) as conn:
            if run.job_id is not None:
                store.runs_of_job(conn, run.job_id, hold=True)
            found = store.end_run(conn, run.id, self.worker_id, status, now, errors[0] if errors else None)
            if found is not None:
                announce(conn, run.project_id, f"eval.run.{topic}", run.id, now=now)
                tell_when_last(conn, context, run.job_id, now=now)


class _Ended(Exception):
    """The run ends, and the row has no outcome."""


class _Row:
    """What has come of one row so far."""

    def __init__(self, work: RunWork, number: int) -> None:
        self.work, self.number = work, number
        self.item: Json = {}
        self.sample: Json = _sample([], [], model=work.task.model)
        self.results: list[Json] = []
        self.usage: list[tuple[str, dict[str, int]]] = []
        self.admissions: list[Admission] = []
        self._values: Json = {}

    async def answer(self, row: EvalRow) -> None:
        """By the run's model, or as it was given. Raises TuneryError."""
        source = self.work.task.data_source
        if source.get("model"):
            endpoint = RESPONSES if source["type"] == "responses" else PATHS["chat"]
            messages = _messages(source, row.item)
            body = _body(source, messages)
            self.sample |= _sample(messages, [], model=source["model"], asked=body)
            given = await self.ask(endpoint, body, "answer")
            message, finish = _answered(endpoint, given)
            content = message.get("content")
            values = sample_of(content if isinstance(content, str) else "", message)
            self.sample |= {
                "output": [_flat(message)],
                "finish_reason": finish,
                "model": given.get("model") or source["model"],
                "usage": _usage(given),
            }
        else:
            values = row.sample or {}
            text = values.get("output_text")
            asked = [_flat(message) for message in as_list(row.item.get("input")) if isinstance(message, dict)]
            output = [{"role": "assistant", "content": text}] if isinstance(text, str) else []
            self.sample |= {"input": asked, "output": output}
        self._values = {"item": row.item, "sample": values}

    async def grade(self, criteria: Sequence[Criterion], ids: Sequence[str]) -> None:
        work = self.work
        for number, (criterion, name) in enumerate(zip(criteria, ids, strict=True)):
            outcome, judge = Outcome(), _RunJudge(self, f"criterion {number}")
            problem: Json | None = None
            score = 0.0
            places = work.context.shared(Places).of(work.task.project_id, type(criterion))
            try:
                async with places:
                    score = await self._graded(criterion, judge, outcome)
            except RateLimited:
                raise
            except TuneryError as error:
                problem = _error(error)
            self.results.append(_result(name, criterion, score, outcome, problem))

    async def _graded(self, criterion: Criterion, judge: Judge, outcome: Outcome) -> float:
        """Waits while the processes that grade are all taken, by other projects."""
        while True:
            try:
                return await run_single(criterion, self._values, judge, outcome)
            except Unavailable:
                await asyncio.sleep(RETRY_S)
                if self.work.end is not None:
                    raise _Ended from None

    async def ask(self, endpoint: str, body: Json, name: str) -> Json:
        """Raises TuneryError, and _Ended."""
        work = self.work

        async def call(ids: RequestIds) -> tuple[Admission, Json]:
            return await answer(work.context, work.caller, ids, endpoint, body)

        came = await work.ask(f"row {self.number} {name}", call)
        if came is None:
            raise _Ended
        found = came[1]
        if isinstance(found, TuneryError):
            raise found
        self.admissions.append(found[0])
        self.count(str(found[1].get("model") or body["model"]), _usage(found[1]))
        return found[1]

    def count(self, model: str, usage: dict[str, int]) -> None:
        self.usage.append((model, {"invocation_count": 1, **usage}))

    def output(self) -> OutputItem:
        work = self.work
        is_errored = self.sample["error"] is not None or any("error" in result for result in self.results)
        has_passed = all(result["passed"] for result in self.results)
        status: ItemStatus = "error" if is_errored else "pass" if has_passed else "fail"
        return OutputItem(
            id=new_id("output_item"),
            run_id=work.task.id,
            project_id=work.task.project_id,
            created_at=work.context.now(),
            status=status,
            row=self.number,
            item=self.item,
            results=self.results,
            sample=self.sample,
        )


class _RunJudge(Judge):
    """Of one row: asked as the row's model is."""

    def __init__(self, row: _Row, name: str) -> None:
        super().__init__(row.work.context, row.work.caller)
        self._row, self._name = row, name

    async def ask_here(self, body: Json, kind: inference.Kind) -> Json:
        return await self._row.ask(PATHS[kind], body, self._name)

    async def ask_elsewhere(self, body: Json) -> Json:
        work = self._row.work

        async def call(_: RequestIds) -> Json:
            async with work.context.judges.ask(PATHS["chat"], body) as given:
                return as_object(orjson.loads(await given.read()))

        came = await work.ask(f"row {self._row.number} {self._name}", call)
        if came is None:
            raise _Ended
        if isinstance(came[1], TuneryError):
            raise JudgeFailed("model_grader_server_error", came[1].message)
        self._row.count(body["model"], _usage(came[1]))
        return came[1]


# ---- what the model is asked


def _messages(source: Json, item: Json) -> list[Json]:
    """Raises InvalidRequest for a place that the row does not fill."""
    given: Json = source.get("input_messages") or {"type": "item_reference", "item_reference": "item.input"}
    try:
        if given["type"] == "template":
            return [
                {"role": message["role"], "content": render(_text(message["content"]), {"item": item})}
                for message in given["template"]
            ]
        path = given["item_reference"]
        found = look_up(path, {"item": item})
    except UnknownVariable as exc:
        raise InvalidRequest(say("error.row_variable", problem=str(exc)), code="invalid_variable") from exc
    messages: list[Any] = [{"role": "user", "content": found}] if isinstance(found, str) else as_list(found)
    if not messages or not all(isinstance(message, dict) for message in messages):
        raise InvalidRequest(say("error.row_no_messages", path=path[:100]), code="invalid_variable")
    return messages


def _text(content: Any) -> str:
    parts = content if isinstance(content, list) else [content]
    return "".join(part if isinstance(part, str) else str(part["text"]) for part in parts)


def _body(source: Json, messages: list[Json]) -> Json:
    given = {name: value for name, value in (source.get("sampling_params") or {}).items() if value is not None}
    most = next(
        (given.pop(name) for name in ("max_completion_tokens", "max_completions_tokens") if name in given), None
    )
    sampling = {**SAMPLING, **given}
    if source["type"] != "responses":
        most_tokens = {} if most is None else {"max_completion_tokens": most}
        return {"model": source["model"], "messages": messages, **sampling, **most_tokens}
    sampling.pop("seed")  # Responses know none
    if (effort := sampling.pop("reasoning_effort", None)) is not None:
        sampling["reasoning"] = {"effort": effort}
    most_tokens = {} if most is None else {"max_output_tokens": most}
    return {"model": source["model"], "input": messages, "store": False, **sampling, **most_tokens}


def _answered(endpoint: str, given: Json) -> tuple[Json, str]:
    """The assistant's message and why it ended, in the words of chats."""
    if endpoint == RESPONSES:
        return answer_of(given["output"]), "stop" if given.get("status") == "completed" else "length"
    choice = as_object(as_list(given.get("choices"))[0])
    return as_object(choice.get("message")), choice.get("finish_reason") or "stop"


# ---- what is told of it


def _sample(messages: list[Json], output: list[Json], *, model: str, asked: Json | None = None) -> Json:
    asked = asked or {}
    most = asked.get("max_completion_tokens", asked.get("max_output_tokens"))
    return {
        "input": [_flat(message) for message in messages],
        "output": output,
        "finish_reason": "stop",
        "model": model,
        "usage": _usage({}),
        "error": None,
        "temperature": asked.get("temperature", 1.0),
        "top_p": asked.get("top_p", 1.0),
        "seed": asked.get("seed"),
        "max_completion_tokens": most,
        "max_completions_tokens": most,
    }


def _flat(message: Json) -> Json:
    """With its content as one text, as OpenAI gives it out."""
    content = message.get("content")
    if isinstance(content, list):
        content = "".join(str(as_object(part).get("text") or "") for part in as_list(content))
    calls = {"tool_calls": message["tool_calls"]} if message.get("tool_calls") else {}
    return {"role": str(message.get("role") or "user"), "content": content or "", **calls}


def _usage(given: Json) -> dict[str, int]:
    """Of chats, embeddings or responses."""
    usage = as_object(given.get("usage"))
    details = as_object(usage.get("prompt_tokens_details") or usage.get("input_tokens_details"))
    prompt = usage.get("prompt_tokens", usage.get("input_tokens")) or 0
    output = usage.get("completion_tokens", usage.get("output_tokens")) or 0
    cached = details.get("cached_tokens") or 0
    counts = {"prompt_tokens": prompt, "completion_tokens": output, "total_tokens": prompt + output}
    return {**counts, "cached_tokens": cached}


def _result(name: str, criterion: Criterion, score: float, outcome: Outcome, problem: Json | None) -> Json:
    flags = {flag: value for flag, value in outcome.errors.model_dump().items() if value}
    error = problem or ({"code": next(iter(flags)), "message": _details(flags), **flags} if flags else None)
    result: Json = {
        "name": name,
        "type": GRADER_TYPES[criterion.type],
        "score": score,
        "passed": error is None and score >= _threshold(criterion),
        "sample": None if outcome.verdict is None else _judged(outcome.verdict),
    }
    return result if error is None else {**result, "error": error}


def _error(error: TuneryError) -> Json:
    return {"code": error.code or "invalid_request", "message": error.message}


def _details(flags: Json) -> str:
    return next((value for value in flags.values() if isinstance(value, str)), "")


def _threshold(criterion: Criterion) -> float:
    """Where none was given: all of a check, and half of what a grader may give."""
    if isinstance(criterion, StringCheck | LabelModel):
        return 1.0
    if criterion.pass_threshold is not None:
        return criterion.pass_threshold
    lowest, highest = (isinstance(criterion, ScoreModel) and criterion.range) or (0.0, 1.0)
    return (lowest + highest) / 2


def _judged(verdict: Verdict) -> Json:
    choices = as_list(verdict.answer.get("choices"))
    message = as_object(as_object(choices[0]).get("message")) if choices else {}
    sample = _sample(verdict.asked["messages"], [_flat(message)], model=verdict.asked["model"], asked=verdict.asked)
    finish = as_object(choices[0]).get("finish_reason") if choices else None
    model = verdict.answer.get("model") or sample["model"]
    return {**sample, "finish_reason": finish or "stop", "model": model, "usage": _usage(verdict.answer)}
