"""What the server tells of a job beyond OpenAI's object."""

from tests.api.conftest import Api
from tunery.domain.job_details import JobDetails
from tunery.domain.jobs import JobStatus


def test_running_job_tells_how_far_it_is_and_why(api: Api) -> None:
    details = {
        "progress": {"step": 3, "total_steps": 30, "epoch": 1, "eta_s": 12.5, "tokens_per_s": 100.0, "lr": 1e-4},
        "hyperparameter_reasons": {"n_epochs": "12 examples: 8 passes over them"},
        "device": "cpu",
        "state": {"step": 3, "prefix": "jobs/x"},
    }
    job = api.make_job(status=JobStatus.RUNNING, step=3, total_steps=30, details=JobDetails.of(details))
    told = api.client.get(f"/tunery/v1/fine_tuning/jobs/{job.id}").json()
    assert (told["step"], told["total_steps"], told["epoch"], told["eta_s"]) == (3, 30, 1, 12.5)
    assert told["reasons"] == {"n_epochs": "12 examples: 8 passes over them"}
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
