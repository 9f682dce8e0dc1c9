"""OpenAI's JSON → this server's nouns. Tolerates what the real service leaves out or fills with empty objects."""

from typing import Any, cast

from tunery.domain.completions import StoredCompletion
from tunery.domain.evals import Eval, EvalRun, ItemStatus, OutputItem, RunStatus
from tunery.domain.files import File, FilePurpose
from tunery.domain.hyperparameters import Hyperparameters
from tunery.domain.ids import new_id
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


# ---- evals

IMPORTED_FROM = "imported_from"  # a key of the metadata of evals and runs: the id at the source
STATUSES: dict[str, ItemStatus] = {"pass": "pass", "passed": "pass", "fail": "fail", "failed": "fail"}
NO_SAMPLE: Json = {"input": [], "output": [], "finish_reason": "stop", "model": "", "usage": {}, "error": None}


def evaluation(described: Json, *, project_id: str) -> Eval | None:
    """Under its id. None where it does not say what its rows are and how they are graded."""
    config, criteria = described.get("data_source_config") or {}, described.get("testing_criteria") or []
    if "item" not in ((config.get("schema") or {}).get("properties") or {}) or not criteria:
        return None
    created_at = int(described.get("created_at") or 0)
    return Eval(
        id=described["id"],
        project_id=project_id,
        created_at=created_at,
        updated_at=created_at,
        name=described.get("name") or "",
        data_source_config=config,
        testing_criteria=[_criterion(each) for each in criteria],
        metadata=_marked(described),
    )


def _criterion(described: Json) -> Json:
    """Without its nulls, which are no values here, and with an id: results name it."""
    named = described.get("name") or described.get("type") or "criterion"
    return {"id": named, "name": named, **cast(Json, _filled(described))}


def _filled(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _filled(each) for name, each in value.items() if each is not None}
    return [_filled(each) for each in value] if isinstance(value, list) else value


def _marked(described: Json) -> dict[str, str]:
    return {**(described.get("metadata") or {}), IMPORTED_FROM: described["id"]}


def eval_run(described: Json, *, eval_id: str, project_id: str) -> EvalRun | None:
    """With its counts, as it ended. None for one that has not."""
    if described.get("status") not in (RunStatus.COMPLETED, RunStatus.FAILED, RunStatus.CANCELED):
        return None
    source, counts = described.get("data_source") or {}, described.get("result_counts") or {}
    failure, model = _error(described.get("error")), described.get("model") or ""
    return EvalRun(
        id=described["id"],
        eval_id=eval_id,
        project_id=project_id,
        created_at=int(described.get("created_at") or 0),
        status=RunStatus(described["status"]),
        name=described.get("name") or model,
        model=model,
        data_source={"type": "jsonl", **source},
        api_key_id="",  # it has ended: no key is asked
        created_by=None,
        metadata=_marked(described),
        error=None if failure is None else {"code": failure.code, "message": failure.message},
        num_rows=counts.get("total") or 0,
        num_passed=counts.get("passed") or 0,
        num_failed=counts.get("failed") or 0,
        num_errored=counts.get("errored") or 0,
        criteria={
            each["testing_criteria"]: {name: each.get(name) or 0 for name in ("passed", "failed", "errored")}
            for each in described.get("per_testing_criteria_results") or ()
        },
        usage={
            each.get("model_name") or model: {name: number for name, number in each.items() if isinstance(number, int)}
            for each in described.get("per_model_usage") or ()
        },
    )


def output_items(described: list[Json], *, run: EvalRun) -> list[OutputItem]:
    """In the order of their rows, which are numbered from 0 here, whatever the source begins with. A row that is there
    twice counts once."""
    by_row = {int(each.get("datasource_item_id") or 0): each for each in described}
    return [
        OutputItem(
            id=each.get("id") or new_id("output_item"),
            run_id=run.id,
            project_id=run.project_id,
            created_at=int(each.get("created_at") or run.created_at),
            status=STATUSES.get(each.get("status") or "", "error"),
            row=number,
            item=each.get("datasource_item") or {},
            results=[_result(result) for result in each.get("results") or ()],
            sample={**NO_SAMPLE, **_sample(each.get("sample") or {})},
        )
        for number, (_, each) in enumerate(sorted(by_row.items()))
    ]


def _result(described: Json) -> Json:
    known = {"score": described.get("score") or 0.0, "passed": bool(described.get("passed"))}
    return {"name": "criterion", "sample": None, **described, **known}


def _sample(described: Json) -> Json:
    """An error of nulls is none."""
    failure = _error(described.get("error"))
    return {**described, "error": None if failure is None else described["error"]}
