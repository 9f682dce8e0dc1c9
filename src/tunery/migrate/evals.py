"""Old runs of imported evals, once more: the same rows and questions, answered by the old model's successor here."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import orjson
from openai import NotFoundError, OpenAI, OpenAIError

from tunery.migrate.convert import IMPORTED_FROM
from tunery.migrate.retrain import RETRAINED_FROM
from tunery.migrate.source import Json, explain

RERUN_OF = "rerun_of"  # a key of a run's metadata: the imported run that it repeats
INPUT = {"type": "item_reference", "item_reference": "item.input"}


@dataclass(frozen=True)
class Outcome:
    """Of one run. `total` is 0 until it has begun."""

    run_id: str
    model: str
    status: str
    passed: int
    total: int


@dataclass(frozen=True)
class Rerun:
    eval_id: str
    name: str  # the eval's
    old: Outcome
    new: Outcome | None
    report_url: str  # the new run beside the old one; empty without one
    reason: str  # why there is no new run; empty when there is one


class Successors:
    """Which model of this server answers for one of the old account: the target of an alias, else what was retrained
    from its job, else the model of that name."""

    def __init__(self, client: OpenAI, aliases: Iterable[Json]) -> None:
        self._client = client
        self._targets = {each["name"]: each["target"] for each in aliases if not each["target"].startswith("openai:")}
        jobs = list(client.fine_tuning.jobs.list(limit=100))
        self._made_by = {job.fine_tuned_model: job.id for job in jobs if job.fine_tuned_model}
        self._retrained = {
            job.metadata[RETRAINED_FROM]: job.fine_tuned_model
            for job in reversed(jobs)  # the newest one counts
            if job.fine_tuned_model and job.metadata and RETRAINED_FROM in job.metadata
        }

    def of(self, model: str) -> str | None:
        """None where there is none."""
        if model in self._targets:
            return self._targets[model]
        if found := self._retrained.get(self._made_by.get(model, "")):
            return found
        try:
            return self._client.models.retrieve(model).id
        except NotFoundError:
            return None


def rerun(
    client: OpenAI, aliases: Iterable[Json], eval_ids: Iterable[str] = (), *, model: str | None = None
) -> Iterator[Rerun]:
    """Each imported run of the evals, by default of all imported ones. A run that was repeated on the same model is
    told of and not repeated. `model`: in place of each old model's successor."""
    successors, wanted = Successors(client, aliases), list(eval_ids)
    found = [client.evals.retrieve(each) for each in wanted] if wanted else client.evals.list(limit=100)
    for each in found:
        runs = list(client.evals.runs.list(each.id, limit=100))
        repeated = {(run.metadata or {}).get(RERUN_OF): run for run in runs if run.status not in ("failed", "canceled")}
        for old in runs:
            if IMPORTED_FROM not in (old.metadata or {}):
                continue
            new, reason = _repeated(client, old, repeated.get(old.id), successors, model)
            url = f"{new.report_url}&against={old.id}" if new is not None else ""
            yield Rerun(each.id, each.name, _outcome(old), new and _outcome(new), url, reason)


def _outcome(run: Any) -> Outcome:
    return Outcome(run.id, run.model, run.status, run.result_counts.passed, run.result_counts.total)


def _repeated(client: OpenAI, old: Any, known: Any, successors: Successors, model: str | None) -> tuple[Any, str]:
    """The new run, or why there is none."""
    source: Json = old.data_source.to_dict()
    asked = old.model or (source.get("source") or {}).get("model") or ""
    if source["type"] == "jsonl":
        return None, "its answers came with its rows: no model was asked"
    answers = model or successors.of(asked)
    if answers is None:
        return None, f"nothing here answers for {asked or 'its model'}: retrain it, or give --model"
    if known is not None and known.model == answers:
        return known, ""
    try:
        rows = list(client.evals.runs.output_items.list(old.id, eval_id=old.eval_id, limit=100))
        if not rows:
            return None, "none of its rows came over"
        lines = [
            orjson.dumps({"item": row.datasource_item}) + b"\n"
            for row in sorted(rows, key=lambda row: row.datasource_item_id)
        ]
        file = client.files.create(file=(f"{old.id}.jsonl", b"".join(lines)), purpose="evals")
        sampling = {name: value for name, value in (source.get("sampling_params") or {}).items() if value is not None}
        body: Json = {
            "type": source["type"],
            "source": {"type": "file_id", "id": file.id},
            "model": answers,
            "input_messages": source.get("input_messages") or INPUT,
            **({"sampling_params": sampling} if sampling else {}),
        }
        metadata: Any = {RERUN_OF: old.id}
        return client.evals.runs.create(old.eval_id, data_source=body, metadata=metadata), ""  # type: ignore[arg-type]
    except OpenAIError as error:
        return None, explain(error)
