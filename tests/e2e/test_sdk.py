"""The loop of OpenAI's guide by the official clients, against a server started by `tunery serve`."""

import base64
import subprocess
import sys
import time

import openai
import pytest
from openai import OpenAI
from openai.types.fine_tuning import FineTuningJob

from tests import node_clients
from tests.e2e.conftest import BASE, MARV, REPOSITORY, Served

pytestmark = pytest.mark.e2e


def finished(client: OpenAI, job_id: str, timeout_s: float = 180) -> FineTuningJob:
    deadline = time.monotonic() + timeout_s
    while True:
        job = client.fine_tuning.jobs.retrieve(job_id)
        if job.status in ("succeeded", "failed", "cancelled"):
            return job
        assert time.monotonic() < deadline, job
        time.sleep(0.2)


def test_python_sdk_goes_round_the_loop(served: Served) -> None:
    client = served.client()
    file = client.files.create(file=MARV, purpose="fine-tune")
    assert client.files.content(file.id).read() == MARV.read_bytes()

    job = client.fine_tuning.jobs.create(training_file=file.id, model="gpt-4o-mini", suffix="marv")
    assert (job.status, job.model) == ("validating_files", BASE)
    job = finished(client, job.id)
    assert job.status == "succeeded", job.error
    assert job.fine_tuned_model is not None and job.fine_tuned_model.startswith(f"ft:{BASE}:personal:marv:")

    messages = [event.message for event in client.fine_tuning.jobs.list_events(job.id, limit=100)]
    assert messages[0] == "The job has successfully completed"
    assert messages[-1] == f"Created fine-tuning job: {job.id}"
    checkpoints = client.fine_tuning.jobs.checkpoints.list(job.id).data
    assert checkpoints[0].fine_tuned_model_checkpoint == job.fine_tuned_model
    assert [point.step_number for point in checkpoints] == sorted(
        (point.step_number for point in checkpoints), reverse=True
    )
    result = base64.b64decode(client.files.content(job.result_files[0]).read()).decode()
    assert result.startswith("step,train_loss,train_accuracy,valid_loss,valid_mean_token_accuracy\n1,")

    question = [{"role": "user", "content": "What is the capital of Italy?"}]
    for model in (job.fine_tuned_model, checkpoints[-1].fine_tuned_model_checkpoint):
        completion = client.chat.completions.create(model=model, messages=question, max_tokens=5)  # type: ignore[arg-type]
        assert completion.model == model
        assert completion.usage is not None and completion.usage.prompt_tokens_details is not None
    chunks = list(
        client.chat.completions.create(
            model=job.fine_tuned_model,
            messages=question,  # type: ignore[arg-type]
            max_tokens=5,
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    assert chunks[-1].usage is not None and 1 <= chunks[-1].usage.completion_tokens <= 5

    assert job.fine_tuned_model in [model.id for model in client.models.list()]
    assert client.models.delete(job.fine_tuned_model).deleted
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(model=job.fine_tuned_model, messages=question)  # type: ignore[arg-type]


def test_wrong_key_is_refused(served: Served) -> None:
    client = OpenAI(base_url=served.base_url, api_key="sk-wrong", max_retries=0)
    with pytest.raises(openai.AuthenticationError) as caught:
        client.models.list()
    assert caught.value.code == "invalid_api_key"


def test_python_example_runs_as_it_stands(served: Served) -> None:
    done = subprocess.run(
        [sys.executable, str(REPOSITORY / "examples" / "finetune.py")],
        env=served.environment(),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert f"ft:{BASE}:personal:marv:" in done.stdout


@pytest.mark.parametrize("clients", node_clients.SETS)
def test_node_example_runs_as_it_stands(served: Served, clients: str) -> None:
    example = REPOSITORY / "examples" / "finetune.mjs"
    printed = node_clients.run(example, clients, served.environment(), str(MARV))
    assert f"ft:{BASE}:personal:marv:" in printed
