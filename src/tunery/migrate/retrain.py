"""New jobs from imported ones: the same files and seed, and hyperparameters that mean the same on the chosen base."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from openai import OpenAI, OpenAIError

from tunery.domain.names import parse_name
from tunery.migrate.deadlines import base_of
from tunery.migrate.source import Json, explain

# OpenAI's multiplier scales a base rate of its own, ours scales ours. What carries over is how far a job went from
# its default, so theirs is divided by the default they choose for `auto` (seen in recorded jobs).
OPENAI_DEFAULT_MULTIPLIER = {"gpt-4o-mini": 1.8, "gpt-3.5-turbo": 2.0, "gpt-4.1-nano": 1.0}

RETRAINED_FROM = "retrained_from"


@dataclass(frozen=True)
class Retrained:
    old_job: str
    new_job: str | None
    reason: str  # why there is no new job; empty when there is one


def equivalent(job: Json) -> dict[str, Any]:
    """n_epochs and batch_size as they were; the learning rate by its distance from OpenAI's default."""
    asked = hyperparameters_of(job)
    result: dict[str, Any] = {}
    for name in ("n_epochs", "batch_size"):
        if isinstance(asked.get(name), int):
            result[name] = asked[name]
    multiplier = asked.get("learning_rate_multiplier")
    default = _default_multiplier(base_of(job["model"]))
    if isinstance(multiplier, int | float) and default and multiplier != default:
        result["learning_rate_multiplier"] = multiplier / default
    if isinstance(asked.get("beta"), int | float):
        result["beta"] = asked["beta"]
    return result


def hyperparameters_of(job: Json) -> Json:
    """OpenAI leaves the top-level object out for DPO jobs and puts the numbers under `method`."""
    method = job.get("method") or {}
    nested = (method.get(method.get("type") or "") or {}).get("hyperparameters") or {}
    return {**(job.get("hyperparameters") or {}), **nested}


def _default_multiplier(base: str) -> float | None:
    return next((value for prefix, value in OPENAI_DEFAULT_MULTIPLIER.items() if base.startswith(prefix)), None)


def suffix_of(job: Json) -> str | None:
    """What the job says; from the model's name where the source does not tell."""
    if "user_provided_suffix" in job:
        return job["user_provided_suffix"]
    name = parse_name(job.get("fine_tuned_model") or "")
    return (name.suffix if name else None) or None


def request_for(job: Json, *, base: str) -> Json:
    """The body of `POST /fine_tuning/jobs` that repeats an imported job on `base`."""
    kind = (job.get("method") or {}).get("type") or "supervised"
    request: Json = {
        "model": base,
        "training_file": job["training_file"],
        "seed": job.get("seed") or 0,
        "method": {"type": kind, kind: {"hyperparameters": equivalent(job)}},
        "metadata": {**(job.get("metadata") or {}), RETRAINED_FROM: job["id"]},
    }
    if job.get("validation_file"):
        request["validation_file"] = job["validation_file"]
    if suffix := suffix_of(job):
        request["suffix"] = suffix
    return request


def retrain(client: OpenAI, jobs: Iterable[Json], *, base: str | None = None) -> Iterator[Retrained]:
    """Creates one job for each succeeded one. A job that was retrained before is not trained twice."""
    for job in jobs:
        if job.get("status") != "succeeded":
            yield Retrained(job["id"], None, f"it {job.get('status')} at the source")
            continue
        known = client.fine_tuning.jobs.list(limit=1, metadata={RETRAINED_FROM: job["id"]}).data
        if known and known[0].status not in ("failed", "cancelled"):
            yield Retrained(job["id"], known[0].id, "")
            continue
        try:
            created = client.fine_tuning.jobs.create(**request_for(job, base=base or base_of(job["model"])))
        except OpenAIError as error:
            yield Retrained(job["id"], None, explain(error))
        else:
            yield Retrained(job["id"], created.id, "")
