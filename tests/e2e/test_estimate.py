"""What an estimate promises, a job keeps: tokens to the last one, steps, and a time within the range."""

import json
from typing import Any

import httpx
import pytest

from tests.e2e.conftest import BASE, MARV, Served
from tests.e2e.test_sdk import finished

pytestmark = pytest.mark.e2e


def ours(served: Served) -> httpx.Client:
    """For the routes under /tunery/v1."""
    address = served.base_url.removesuffix("/v1")
    return httpx.Client(base_url=address, headers={"authorization": f"Bearer {served.key}"}, timeout=60)


def test_a_job_keeps_what_its_estimate_promised(served: Served) -> None:
    client = served.client()
    file = client.files.create(file=MARV, purpose="fine-tune")
    body: dict[str, Any] = {"model": BASE, "training_file": file.id}
    for epochs in (2, 3):
        body["method"] = {"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": epochs}}}
        promised = ours(served).post("/tunery/v1/estimates", json=body).raise_for_status().json()
        said = served.tunery("jobs", "create", file.id, "--epochs", str(epochs), "--dry-run", "--json")
        assert json.loads(said.stdout)["trained_tokens"] == promised["trained_tokens"]
        job = finished(client, client.fine_tuning.jobs.create(**body).id)
        assert job.status == "succeeded", job.error
        assert job.trained_tokens == promised["trained_tokens"]
        seen = ours(served).get(f"/tunery/v1/jobs/{job.id}").raise_for_status().json()
        assert seen["total_steps"] == promised["num_steps"]
        assert seen["hyperparameters"]["n_epochs"] == promised["hyperparameters"]["n_epochs"]
        lasted = seen["finished_at"] - seen["started_at"]  # whole seconds
        assert promised["min_s"] - 1 <= lasted <= promised["max_s"] + 1, (promised, lasted)
    assert promised["num_measured_jobs"] >= 1  # the second time the range rests on the first job
