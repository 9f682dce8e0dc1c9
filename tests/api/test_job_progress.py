"""What the server tells of a job beyond OpenAI's object."""

from typing import Any

import pytest

from tests.api.conftest import Api
from tunery.domain.job_details import JobDetails
from tunery.domain.jobs import JobStatus, SampleAnswer
from tunery.domain.tenants import Role
from tunery.store import events
from tunery.store.database import write


def test_running_job_tells_how_far_it_is_and_why(api: Api) -> None:
    details = {
        "progress": {"step": 3, "total_steps": 30, "epoch": 1, "eta_s": 12.5, "tokens_per_s": 100.0, "lr": 1e-4},
        "hyperparameter_reasons": {"n_epochs": "12 examples: 8 passes over them"},
        "device": "cpu",
        "node": "node-7",
        "state": {"step": 3, "prefix": "jobs/x"},
    }
    job = api.make_job(status=JobStatus.RUNNING, step=3, total_steps=30, details=JobDetails.of(details))
    told = api.client.get(f"/tunery/v1/fine_tuning/jobs/{job.id}").json()
    assert (told["step"], told["total_steps"], told["epoch"], told["eta_s"]) == (3, 30, 1, 12.5)
    assert told["reasons"] == {"n_epochs": "12 examples: 8 passes over them"}
    assert (told["device"], told["node"]) == ("cpu", "node-7")
    assert told["data_advice"] == []
    assert "state" not in told


def test_failed_job_tells_which_lines_to_mend(api: Api) -> None:
    problem = {"line": 10, "message": "no role", "suggestion": "Add the role."}
    job = api.make_job(status=JobStatus.FAILED, details=JobDetails(problems=[problem]))
    told = api.client.get(f"/tunery/v1/fine_tuning/jobs/{job.id}").json()
    assert told["problems"] == [problem | {"texts": {}}]
    assert told["eta_s"] is None


def test_another_projects_job_does_not_exist(api: Api) -> None:
    job = api.make_job()
    answer = api.client.get(f"/tunery/v1/fine_tuning/jobs/{job.id}", headers=api.as_key(api.make_stranger()))
    assert answer.status_code == 404
    assert answer.json()["error"]["code"] == "fine_tune_not_found"


PROMPTS = ["How are you?", [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "And you?"}]]


def test_sample_prompts_are_kept_and_their_answers_told_as_they_come(api: Api) -> None:
    body = {"model": "gpt-4o-mini", "training_file": api.make_file()["id"], "sample_prompts": PROMPTS}
    job_id = api.client.post("/v1/fine_tuning/jobs", json=body).json()["id"]
    kept = [[{"role": "user", "content": PROMPTS[0]}], PROMPTS[1]]
    assert api.client.get(f"/tunery/v1/jobs/{job_id}").json()["request"]["sample_prompts"] == kept
    route = f"/tunery/v1/jobs/{job_id}/samples"
    assert api.client.get(route).json() == {"object": "list", "prompts": kept, "data": []}
    for step in (5, 10):
        answers = [SampleAnswer(job_id, step, at, 0, f"{step}: {at}", "stop", 9, 3) for at in (1, 0)]
        for _ in range(2):  # a resumed job comes to the same step again
            with write(api.engine) as conn:
                events.add_samples(conn, answers)
    found = [(each["step"], each["answer"]) for each in api.client.get(route).json()["data"]]
    assert found == [(5, "5: 0"), (5, "5: 1"), (10, "10: 0"), (10, "10: 1")]
    assert len(api.client.get(route, params={"after_step": 5}).json()["data"]) == 2
    assert api.client.get(route, headers=api.as_key(api.make_stranger())).status_code == 404


@pytest.mark.parametrize(
    ("values", "param"),
    [
        ({"sample_prompts": ["x"] * 9}, "sample_prompts"),
        ({"sample_prompts": [[{"role": "assistant", "content": "Hello."}]]}, "sample_prompts[0]"),
        ({"sample_prompts": ["x"], "model": "davinci-002"}, "sample_prompts"),
    ],
)
def test_sample_prompts_that_cannot_be_asked_are_refused(api: Api, values: dict[str, Any], param: str) -> None:
    body = {"model": "gpt-4o-mini", "training_file": api.make_file()["id"], **values}
    answer = api.client.post("/v1/fine_tuning/jobs", json=body)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)


def test_the_log_of_a_trainer_is_for_owners(api: Api) -> None:
    job = api.make_job(status=JobStatus.FAILED)
    route = f"/tunery/v1/jobs/{job.id}/log"
    assert api.client.get(route).status_code == 404
    for text in ("first", "KeyError: 'labels'"):
        with write(api.engine) as conn:
            events.keep_trainer_log(conn, job.id, text, now=api.clock())
    assert api.client.get(route).json()["log"] == "KeyError: 'labels'"
    member = api.as_key(api.make_key(role=Role.MEMBER))
    assert api.client.get(route, headers=member).status_code == 403
    assert api.client.get(route, headers=api.as_key(api.make_stranger())).status_code == 404
