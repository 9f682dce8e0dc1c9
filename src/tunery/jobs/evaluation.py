"""A job with an eval (`metadata.run_eval`): when it has succeeded, the base, the previous and the new model answer the
eval's rows, in ordinary runs. What cannot be run is refused when the job is created; what is gone by its end is told by
an event, and ends no job."""

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection

from tunery.domain.errors import InvalidRequest, NotFound
from tunery.domain.evals import Eval, EvalRun, JobRole, RunStatus
from tunery.domain.files import FilePurpose
from tunery.domain.ids import new_id
from tunery.domain.jobs import RUN_EVAL, RUN_EVAL_FILE, FineTuningJob
from tunery.domain.json_body import as_object
from tunery.domain.names import parse_name, suffix_in_name
from tunery.sandbox import walls
from tunery.store import evals, events, files, models
from tunery.texts import say

Json = dict[str, Any]

INPUT = {"type": "item_reference", "item_reference": "item.input"}
EVAL, ROWS = f"metadata.{RUN_EVAL}", f"metadata.{RUN_EVAL_FILE}"


def check_evaluation(
    conn: Connection, metadata: Mapping[str, str] | None, validation_file: str | None, project_id: str
) -> bool:
    """Whether there is to be one. Raises InvalidRequest for one that could not be run."""
    wished = metadata or {}
    if RUN_EVAL not in wished:
        if RUN_EVAL_FILE in wished:
            raise InvalidRequest(
                say("error.missing_parameter", param=EVAL), param=EVAL, code="missing_required_parameter"
            )
        return False
    asked = _eval(conn, wished[RUN_EVAL], project_id)
    _data_source(conn, asked, wished, validation_file)
    if any(each.get("type") == "python" for each in asked.testing_criteria):
        try:
            walls.probe()
        except walls.NoSandbox as exc:
            problem = say("error.no_sandbox", reason=str(exc))
            raise InvalidRequest(problem, param=EVAL, code="unsupported_value") from exc
    return True


def _eval(conn: Connection, eval_id: str, project_id: str) -> Eval:
    try:
        return evals.get_eval(conn, eval_id, project_id)
    except NotFound as exc:
        raise InvalidRequest(exc.message, param=EVAL, code="invalid_value") from exc


def _data_source(conn: Connection, asked: Eval, wished: Mapping[str, str], validation_file: str | None) -> Json:
    """Of the runs, but for the model: the rows of the file that was chosen, else those of the eval's newest run that
    asked a model, else of the validation file; asked as that run asks, a training file's as conversations."""
    chosen, newest = wished.get(RUN_EVAL_FILE), evals.newest_asking_run(conn, asked.id)
    known = None if newest is None else newest.data_source
    if chosen is None and known is not None and _is_there(conn, known, asked.project_id):
        return known
    file_id = chosen or validation_file
    if file_id is None:
        raise InvalidRequest(say("error.eval_without_rows", eval_id=asked.id), param=EVAL, code="invalid_value")
    file = files.find_file(conn, file_id, asked.project_id)
    if file is None:
        message = say("error.run_file_unknown", file_id=file_id, project_id=asked.project_id)
        raise InvalidRequest(message, param=ROWS, code="invalid_value")
    source = {"type": "file_id", "id": file_id}
    if known is not None and file.purpose is not FilePurpose.FINE_TUNE:
        return {**known, "source": source}
    item = as_object(as_object(asked.data_source_config["schema"]).get("properties")).get("item")
    named = as_object(as_object(item).get("properties"))
    if named and "input" not in named:
        names = ", ".join(sorted(named))[:500]
        message = say("error.eval_takes_no_conversations", eval_id=asked.id, names=names)
        raise InvalidRequest(message, param=ROWS if chosen else EVAL, code="invalid_value")
    return {"type": "completions", "source": source, "input_messages": INPUT, "sampling_params": {"temperature": 0}}


def _is_there(conn: Connection, data_source: Json, project_id: str) -> bool:
    file_id = as_object(data_source["source"]).get("id")
    return file_id is None or files.find_file(conn, file_id, project_id) is not None


def start_evaluation(conn: Connection, job: FineTuningJob, key_id: str, *, now: float) -> None:
    """`job`, which has an eval, has succeeded in this transaction. `key_id`: whose right the runs need."""
    wished = job.metadata or {}
    try:
        asked = _eval(conn, wished[RUN_EVAL], job.project_id)
        source = _data_source(conn, asked, wished, job.validation_file)
    except InvalidRequest as error:
        told = say("event.no_evaluation", reason=error.message)
        events.add_event(conn, job.id, told, now=now, level="warn", data={})
        return
    named = _models(conn, job)
    for role, model in named.items():
        run = EvalRun(
            id=new_id("eval_run"),
            eval_id=asked.id,
            project_id=job.project_id,
            created_at=int(now),
            status=RunStatus.QUEUED,
            name=f"{role}: {model}",
            model=model,
            data_source={**source, "model": model},
            api_key_id=key_id,
            created_by=job.created_by,
            metadata={"job_id": job.id, "role": role},
            job_id=job.id,
            job_role=role,
        )
        evals.insert_run(conn, run)
    events.add_event(conn, job.id, say("event.evaluation", name=asked.name or asked.id), now=now, data={})


def _models(conn: Connection, job: FineTuningJob) -> dict[JobRole, str]:
    """By role, in the order in which they are shown."""
    previous = _previous(conn, job)
    if previous is not None and models.find_model(conn, previous, job.project_id) is None:
        previous = None
    assert job.fine_tuned_model is not None
    found: dict[JobRole, str] = {"base": job.base_model}
    return {**found, **({"previous": previous} if previous else {}), "new": job.fine_tuned_model}


def _previous(conn: Connection, job: FineTuningJob) -> str | None:
    """The model that the job went on from; else what an alias of the project leads to that was tuned on this base under
    this suffix, of several aliases the one that was changed last."""
    if job.model != job.base_model:
        return job.model
    suffix = "" if job.suffix is None else suffix_in_name(job.suffix)
    for alias in sorted(models.list_aliases(conn, job.project_id), key=lambda each: -each.updated_at):
        name = parse_name(alias.target)
        if name is not None and (name.base, name.suffix) == (job.base_model, suffix):
            return alias.target
    return None
