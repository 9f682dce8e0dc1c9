"""Fine-tuning jobs on the wire."""

from collections.abc import Callable
from typing import Any

import pytest

from tests.api.conftest import BASE, NOW, Api
from tunery.domain.hyperparameters import Hyperparameters
from tunery.domain.jobs import Checkpoint, JobError, JobStatus
from tunery.store import events
from tunery.store.database import write


def create(api: Api, headers: dict[str, str] | None = None, **values: Any):
    body = {"model": "gpt-4o-mini", "training_file": values.pop("training_file", None) or api.make_file()["id"]}
    return api.client.post("/v1/fine_tuning/jobs", json={**body, **values}, headers=headers)


def test_new_job_is_complete_for_closed_types(api: Api) -> None:
    job = create(api, suffix="my suffix", metadata={"team": "a"}, seed=7).json()
    assert job["object"] == "fine_tuning.job"
    assert job["model"] == BASE
    assert job["status"] == "validating_files"
    assert (job["seed"], job["user_provided_suffix"], job["metadata"]) == (7, "my suffix", {"team": "a"})
    assert job["error"] is None
    assert job["result_files"] == []
    auto = {"n_epochs": "auto", "batch_size": "auto", "learning_rate_multiplier": "auto"}
    assert job["hyperparameters"] == auto
    assert job["method"] == {"type": "supervised", "supervised": {"hyperparameters": auto}}
    for name in ("fine_tuned_model", "finished_at", "trained_tokens", "validation_file", "estimated_finish"):
        assert job[name] is None


def test_dpo_job_mirrors_its_hyperparameters(api: Api) -> None:
    method = {"type": "dpo", "dpo": {"hyperparameters": {"beta": 0.2, "n_epochs": 2}}}
    job = create(api, method=method).json()
    assert job["hyperparameters"]["n_epochs"] == 2
    assert job["method"]["dpo"]["hyperparameters"] == {**job["hyperparameters"], "beta": 0.2}


def test_top_level_hyperparameters_are_still_taken(api: Api) -> None:
    assert create(api, hyperparameters={"n_epochs": 4}).json()["hyperparameters"]["n_epochs"] == 4
    assert create(api, hyperparameters={}).json()["hyperparameters"]["n_epochs"] == "auto"


def test_settings_of_other_methods_are_not_used(api: Api) -> None:
    method = {
        "type": "supervised",
        "supervised": {"hyperparameters": {"n_epochs": 3}},
        "dpo": {"hyperparameters": {"n_epochs": 9}},
        "reinforcement": {"grader": {"type": "string_check"}},
    }
    assert create(api, method=method).json()["hyperparameters"]["n_epochs"] == 3


MISSING = "missing_required_parameter"


def wandb(**values: Any) -> dict[str, Any]:
    return {"type": "wandb", "wandb": {"project": "p", **values}}


@pytest.mark.parametrize(
    ("values", "param", "code"),
    [
        ({"training_file": "file-unknown"}, "training_file", None),
        ({"model": "gpt-17"}, None, "model_not_available"),
        ({"suffix": "x" * 65}, "suffix", None),
        ({"suffix": ""}, "suffix", None),
        ({"seed": -1}, "seed", "integer_below_min_value"),
        ({"hyperparameters": {"n_epochs": 51}}, "hyperparameters.n_epochs", "integer_above_max_value"),
        ({"hyperparameters": {"batch_size": 0}}, "hyperparameters.batch_size", "integer_below_min_value"),
        (
            {"hyperparameters": {"learning_rate_multiplier": 0}},
            "hyperparameters.learning_rate_multiplier",
            "decimal_below_min_value",
        ),
        (
            {"method": {"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 51}}}},
            "method.supervised.hyperparameters.n_epochs",
            "integer_above_max_value",
        ),
        ({"method": {"type": "reinforcement"}}, "method.type", "unsupported_value"),
        ({"integrations": [{"type": "wandb", "wandb": {"project": "p"}}]}, "integrations", "wandb_key_missing"),
        ({"integrations": [wandb()] * 6}, "integrations", "array_above_max_length"),
        ({"integrations": [{"type": "mlflow"}]}, "integrations[0].type", "invalid_value"),
        (
            {"integrations": [{"type": "wandb", "wandb": {}}]},
            "integrations[0].wandb.project",
            "missing_required_parameter",
        ),
        ({"integrations": [wandb(project="")]}, "integrations[0].wandb.project", "string_below_min_length"),
        ({"integrations": [wandb(tags=["x" * 65])]}, "integrations[0].wandb.tags[0]", "string_above_max_length"),
        ({"integrations": [wandb(tags=["x"] * 51)]}, "integrations[0].wandb.tags", "array_above_max_length"),
    ],
)
def test_what_cannot_be_trained_is_400(api: Api, values: dict[str, Any], param: str | None, code: str | None) -> None:
    answer = create(api, **values)
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert error["code"] == code
    if param:
        assert error["param"] == param


def test_file_of_another_purpose_is_400(api: Api) -> None:
    answer = create(api, training_file=api.make_file(purpose="user_data")["id"])
    assert answer.json()["error"]["param"] == "training_file"


def test_idempotency_key_gives_the_first_job_again(api: Api) -> None:
    file = api.make_file()["id"]
    key = {"idempotency-key": "attempt-1"}
    first = create(api, headers=key, training_file=file).json()
    assert create(api, headers=key, training_file=file).json()["id"] == first["id"]
    assert create(api, training_file=file).json()["id"] != first["id"]
    assert create(api, headers=key, training_file=file, seed=3).status_code == 400


def test_cancel_needs_no_body_and_works_once(api: Api) -> None:
    job = create(api).json()
    assert api.client.post(f"/v1/fine_tuning/jobs/{job['id']}/cancel").json()["status"] == "cancelled"
    again = api.client.post(f"/v1/fine_tuning/jobs/{job['id']}/cancel")
    # A 409 would be retried by both SDKs.
    assert (again.status_code, again.json()["error"]["type"]) == (400, "invalid_request_error")


@pytest.mark.parametrize("shown", ["paused", "queued", "running"])
def test_paused_job_shows_as_the_setting_says(make_api: Callable[..., Api], shown: str) -> None:
    api = make_api(paused_status=shown)
    job = api.make_job()
    assert api.client.post(f"/v1/fine_tuning/jobs/{job.id}/pause").json()["status"] == shown
    assert api.client.get(f"/v1/fine_tuning/jobs/{job.id}").json()["status"] == shown
    assert api.client.post(f"/v1/fine_tuning/jobs/{job.id}/resume").json()["status"] == "queued"


def test_unknown_job_has_openais_words(api: Api) -> None:
    for method, verb in (("GET", ""), ("POST", "/cancel"), ("POST", "/resume"), ("GET", "/events")):
        answer = api.client.request(method, f"/v1/fine_tuning/jobs/ftjob-x{verb}")
        assert answer.status_code == 404
        assert answer.json()["error"] == {
            "message": "Could not find fine tune: ftjob-x",
            "type": "invalid_request_error",
            "param": "fine_tune_id",
            "code": "fine_tune_not_found",
        }


def test_jobs_list_newest_first_and_page_to_the_end(api: Api) -> None:
    made = []
    for _ in range(5):
        made.append(api.make_job().id)
        api.clock.now += 1
    seen: list[str] = []
    after = None
    for _ in range(4):
        page = api.client.get("/v1/fine_tuning/jobs", params={"limit": 2, **({"after": after} if after else {})}).json()
        seen += [job["id"] for job in page["data"]]
        after = seen[-1]
        if not page["has_more"]:
            break
    assert seen == made[::-1]
    assert api.client.get("/v1/fine_tuning/jobs", params={"limit": 0}).json() == {
        "object": "list",
        "data": [],
        "has_more": False,
    }


def test_metadata_filters(api: Api) -> None:
    both = api.make_job(metadata={"team": "a", "x": ""}).id
    one = api.make_job(metadata={"team": "a"}).id
    none = api.make_job().id

    def found(query: str) -> set[str]:
        return {job["id"] for job in api.client.get(f"/v1/fine_tuning/jobs?{query}").json()["data"]}

    assert found("metadata[team]=a") == {both, one}
    assert found("metadata[team]=a&metadata[x]=") == {both}
    assert found("metadata%5Bteam%5D=b") == set()
    assert found("metadata=null") == {none}
    assert found("metadata=") == {both, one, none}
    assert api.client.get("/v1/fine_tuning/jobs?metadata=all").status_code == 400


def test_events_newest_first(api: Api) -> None:
    job = api.make_job()
    with write(api.engine) as conn:
        for number in range(3):
            events.add_event(conn, job.id, message=f"event {number}", data={"n": number}, now=NOW)
    page = api.client.get(f"/v1/fine_tuning/jobs/{job.id}/events", params={"limit": 1}).json()
    assert [event["message"] for event in page["data"]] == ["event 2"]
    assert page["has_more"] is True
    rest = api.client.get(f"/v1/fine_tuning/jobs/{job.id}/events", params={"after": page["data"][0]["id"]}).json()
    assert [event["message"] for event in rest["data"]] == ["event 1", "event 0"]


@pytest.mark.parametrize(
    "status", [JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.CANCELLED, JobStatus.PAUSED], ids=str
)
def test_checkpoints_are_listed_when_the_job_has_ended_or_is_paused(api: Api, status: JobStatus) -> None:
    finished = Hyperparameters(n_epochs=2, batch_size=4, learning_rate_multiplier=1.8)
    running = api.make_job(status=JobStatus.RUNNING)
    done = api.make_job(status=status, hyperparameters=finished, fine_tuned_model="ft:x:y::AbCd1234")
    with write(api.engine) as conn:
        for job, step in ((running, 10), (done, 10), (done, 20)):
            name = f"ft:x:y::AbCd1234:ckpt-step-{step}"
            checkpoint = Checkpoint(f"ckpt_{job.id}_{step}", job.id, int(NOW), step, name, {"train_loss": 0.5})
            events.add_checkpoint(conn, checkpoint)
    empty = api.client.get(f"/v1/fine_tuning/jobs/{running.id}/checkpoints").json()
    assert (empty["data"], empty["first_id"], empty["last_id"]) == ([], None, None)
    page = api.client.get(f"/v1/fine_tuning/jobs/{done.id}/checkpoints").json()
    assert [item["step_number"] for item in page["data"]] == [20, 10]
    assert (page["first_id"], page["last_id"]) == (page["data"][0]["id"], page["data"][1]["id"])


def test_failed_job_says_why(api: Api) -> None:
    error = JobError("invalid_n_examples", "Training file has 7 example(s)", "training_file")
    job = api.make_job(status=JobStatus.FAILED, error=error, finished_at=int(NOW))
    shown = api.client.get(f"/v1/fine_tuning/jobs/{job.id}").json()["error"]
    assert shown == {"code": error.code, "message": error.message, "param": error.param}
