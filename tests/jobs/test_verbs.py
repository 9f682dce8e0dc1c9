"""What create accepts and refuses, and every verb in every state."""

from dataclasses import replace
from typing import Any

import pytest
from pydantic import SecretStr
from sqlalchemy import select, update

from tests.jobs.conftest import ROWS, Site
from tests.rows import fine_tuned_model
from tunery.domain.errors import InvalidRequest, InvalidTransition, NotFound, RateLimited
from tunery.domain.files import FilePurpose
from tunery.domain.hyperparameters import Hyperparameters
from tunery.domain.jobs import TERMINAL, JobStatus
from tunery.domain.models import FineTunedModel
from tunery.domain.notices import WebhookEndpoint
from tunery.jobs import verbs
from tunery.jobs.requests import JobRequest
from tunery.store import models, webhooks
from tunery.store.database import read, write
from tunery.store.tables import jobs, outbox

WANDB = [{"type": "wandb", "wandb": {"project": "marv", "tags": ["a"]}}]


def refused(site: Site, **changes: Any) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        site.create(**changes)
    return caught.value


def own_model(site: Site) -> FineTunedModel:
    name = "ft:tiny-1:personal:marv:abcdefgh"
    model = fine_tuned_model(name=name, project_id=site.caller.project_id, base_model="tiny-1", source="path:x")
    with write(site.engine) as conn:
        models.insert_model(conn, model)
    return model


def test_new_job_waits_for_validation_with_auto_where_nothing_was_chosen(site: Site) -> None:
    job = site.job(site.create(suffix="my model: v2", metadata={"a": "b"}).id)
    assert job.status is JobStatus.VALIDATING_FILES
    assert job.hyperparameters == Hyperparameters()
    assert job.suffix == "my model: v2"
    assert 0 <= job.seed < 2**31
    assert (job.fine_tuned_model, job.error, job.finished_at, job.trained_tokens) == (None, None, None, None)


def test_alias_of_a_model_becomes_its_snapshot(site: Site) -> None:
    assert site.create(model="gpt-4o-mini").model == "gpt-4o-mini-2024-07-18"


def test_own_model_is_continued_and_its_base_stays_the_snapshot(site: Site) -> None:
    model = own_model(site)
    job = site.create(model=model.name)
    assert (job.model, job.base_model) == (model.name, "tiny-1")


def test_unknown_model_is_refused_in_the_words_that_clients_compare(site: Site) -> None:
    error = refused(site, model="gpt-9")
    assert error.message == "Model gpt-9 is not available for fine-tuning or does not exist."
    assert str(error.body()).endswith("'code': 'model_not_available'}}")


@pytest.mark.parametrize("param", ["training_file", "validation_file"])
def test_unknown_file_is_refused_and_named(site: Site, param: str) -> None:
    error = refused(site, **{param: "file-nope"})
    assert (error.message, error.param) == (f"invalid {param}: file-nope", param)


def test_file_for_another_purpose_is_refused(site: Site) -> None:
    error = refused(site, training_file=site.add_file(ROWS, FilePurpose.BATCH))
    assert "'batch'" in error.message
    assert error.param == "training_file"


def test_file_and_model_of_another_project_do_not_exist(site: Site) -> None:
    file_id, model = site.add_file(ROWS), own_model(site)
    site.caller = replace(site.caller, project_id="proj_other")
    assert refused(site, training_file=file_id).param == "training_file"
    assert refused(site, model=model.name, training_file=file_id).code == "model_not_available"


def test_reinforcement_is_refused_and_never_trained_as_something_else(site: Site) -> None:
    error = refused(site, method="reinforcement")
    assert (error.param, error.code) == ("method.type", "unsupported_value")


@pytest.mark.parametrize(
    ("chosen", "name", "code"),
    [
        (Hyperparameters(n_epochs=0), "n_epochs", "integer_below_min_value"),
        (Hyperparameters(n_epochs=51), "n_epochs", "integer_above_max_value"),
        (Hyperparameters(batch_size=257), "batch_size", "integer_above_max_value"),
        (Hyperparameters(learning_rate_multiplier=0), "learning_rate_multiplier", "decimal_below_min_value"),
        (Hyperparameters(learning_rate_multiplier=float("nan")), "learning_rate_multiplier", "decimal_below_min_value"),
        (Hyperparameters(learning_rate_multiplier=float("inf")), "learning_rate_multiplier", "decimal_above_max_value"),
        (Hyperparameters(beta=2.1), "beta", "decimal_above_max_value"),
    ],
)
def test_hyperparameter_out_of_bounds_is_named_by_its_path(
    site: Site, chosen: Hyperparameters, name: str, code: str
) -> None:
    error = refused(site, method="dpo", hyperparameters=chosen)
    assert (error.param, error.code) == (f"method.dpo.hyperparameters.{name}", code)
    assert "Expected a value" in error.message and "None" not in error.message


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"seed": -1}, "seed"),
        ({"seed": 2**31}, "seed"),
        ({"suffix": ""}, "suffix"),
        ({"suffix": "x" * 65}, "suffix"),
        ({"metadata": {str(n): "" for n in range(17)}}, "metadata"),
        ({"metadata": {"k" * 65: ""}}, "metadata"),
        ({"metadata": {"k": "v" * 513}}, "metadata.k"),
    ],
)  # fmt: skip
def test_value_out_of_bounds_is_refused_and_named(site: Site, changes: dict[str, Any], param: str) -> None:
    assert refused(site, **changes).param == param


def test_wandb_is_refused_without_a_key_and_gets_the_jobs_id_with_one(site: Site) -> None:
    assert "TUNERY_WANDB_API_KEY" in refused(site, integrations=WANDB).message
    site.settings = site.settings.model_copy(update={"wandb_api_key": SecretStr("k")})
    job = site.create(integrations=WANDB)
    assert job.integrations == [{"type": "wandb", "wandb": {"project": "marv", "tags": ["a"], "run_id": job.id}}]


def test_repeated_create_with_one_key_gives_the_first_job(site: Site) -> None:
    request = JobRequest("tiny-1", site.add_file(ROWS))

    def create(request: JobRequest) -> str:
        with write(site.engine) as conn:
            return verbs.create_job(
                conn, request, caller=site.caller, catalog=site.catalog, settings=site.settings, idempotency_key="k1"
            ).id

    assert create(request) == create(request)
    with pytest.raises(InvalidRequest, match="Idempotency-Key"):
        create(replace(request, seed=5))
    with read(site.engine) as conn:
        assert len(conn.execute(select(jobs)).all()) == 1


def test_daily_limit_speaks_as_clients_expect(site: Site) -> None:
    site.settings = site.settings.model_copy(update={"max_jobs_per_day": 1})
    site.create()
    with pytest.raises(RateLimited, match=r"maximum of 1 fine-tuning requests per day"):
        site.create()


def put_into(site: Site, job_id: str, status: JobStatus) -> None:
    with write(site.engine) as conn:
        conn.execute(update(jobs).where(jobs.c.id == job_id).values(status=status, validated=True))


@pytest.mark.parametrize("status", list(JobStatus))
@pytest.mark.parametrize("verb", [verbs.cancel_job, verbs.pause_job, verbs.resume_job])
def test_every_verb_in_every_state(site: Site, verb: Any, status: JobStatus) -> None:
    expected: dict[Any, dict[JobStatus, JobStatus]] = {
        verbs.cancel_job: {
            JobStatus.VALIDATING_FILES: JobStatus.CANCELLED,
            JobStatus.QUEUED: JobStatus.CANCELLED,
            JobStatus.PAUSED: JobStatus.CANCELLED,
            JobStatus.RUNNING: JobStatus.CANCELLED,
        },
        verbs.pause_job: {
            JobStatus.VALIDATING_FILES: JobStatus.PAUSED,
            JobStatus.QUEUED: JobStatus.PAUSED,
            JobStatus.RUNNING: JobStatus.RUNNING,
        },
        verbs.resume_job: {JobStatus.PAUSED: JobStatus.QUEUED},
    }
    job = site.create()
    put_into(site, job.id, status)
    target = expected[verb].get(status)
    if target is None:
        with pytest.raises(InvalidTransition) as caught:
            site.verb(verb, job.id)
        assert caught.value.status == 400
        assert caught.value.type == "invalid_request_error"
        assert str(status) in caught.value.message
    else:
        assert site.verb(verb, job.id).status is target
    assert site.job(job.id).status is (target or status)


def test_verb_on_another_projects_job_finds_none(site: Site) -> None:
    job = site.create()
    with write(site.engine) as conn, pytest.raises(NotFound) as caught:
        verbs.cancel_job(conn, job.id, "proj_other")
    assert caught.value.code == "fine_tune_not_found"


def test_cancel_of_a_waiting_job_is_announced_at_once(site: Site) -> None:
    job = site.create()
    endpoint = WebhookEndpoint(
        "whe_1", job.project_id, "hook", "http://x", ("fine_tuning.job.cancelled",), 1, "whsec_eA=="
    )
    with write(site.engine) as conn:
        webhooks.insert_endpoint(conn, endpoint)
    done = site.verb(verbs.cancel_job, job.id)
    assert done.status in TERMINAL
    with read(site.engine) as conn:
        rows = conn.execute(select(outbox).order_by(outbox.c.kind)).all()
    assert [(row.kind, row.topic) for row in rows] == [
        ("email", "fine_tuning.job.cancelled"),
        ("webhook", "fine_tuning.job.cancelled"),
    ]
    assert rows[1].payload["data"] == {"id": job.id}
    assert rows[1].endpoint_id == "whe_1"


@pytest.mark.parametrize(("is_own", "kinds"), [(True, ["webhook"]), (False, ["email", "webhook"])])
def test_whoever_cancels_a_job_of_their_own_gets_no_mail(site: Site, is_own: bool, kinds: list[str]) -> None:
    """The webhook goes out in any case: a program waits for it."""
    job = site.create()
    event = ("fine_tuning.job.cancelled",)
    with write(site.engine) as conn:
        webhooks.insert_endpoint(
            conn, WebhookEndpoint("whe_1", job.project_id, "hook", "http://x", event, 1, "whsec_eA==")
        )
        verbs.cancel_job(conn, job.id, job.project_id, by=job.created_by if is_own else "user-other")
    with read(site.engine) as conn:
        assert sorted(row.kind for row in conn.execute(select(outbox)).all()) == kinds
