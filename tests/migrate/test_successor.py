"""From the old model's answers to a verdict on its successor: retrain, alias, capture, report, on a real model."""

import json
import random
import time
from pathlib import Path
from typing import Any

import pytest
from openai import OpenAI

from tests.e2e.conftest import Served, serve, stop
from tests.migrate.conftest import job
from tunery.migrate.bundle import Bundle
from tunery.migrate.capture import ModelAnswer, Prompt, capture, read_prompts
from tunery.migrate.fetch import fetch_all
from tunery.migrate.load import load_all, open_target
from tunery.migrate.report import make_report
from tunery.migrate.retrain import RETRAINED_FROM, retrain
from tunery.migrate.source import Source
from tunery.settings import load_settings

EXAMPLES = Path(__file__).parents[2] / "examples"
TRAIN, TEST = EXAMPLES / "tickets_train.jsonl", EXAMPLES / "tickets_test.jsonl"
BASE = "gpt-4o-mini-2024-07-18"
OLD = job(1)["fine_tuned_model"]
OLD_MISTAKES = 12  # of 60: a successor that is right in 19 of 20 answers is as good beyond doubt, whatever its seed


def shuffled_labels(path: Path) -> bytes:
    """The training file with every answer moved to another row: what it teaches is wrong."""
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    labels = [row["messages"][-1]["content"] for row in rows]
    random.Random(0).shuffle(labels)
    for row, label in zip(rows, labels, strict=True):
        row["messages"][-1]["content"] = label
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


@pytest.fixture
def old_account(recorded_openai: Any) -> Any:
    """The ticket model as it answers at OpenAI, its job and its training file."""
    hyperparameters = {"n_epochs": 3, "batch_size": 4, "learning_rate_multiplier": 1.8}
    recorded_openai.jobs = [job(1, hyperparameters=hyperparameters)]
    recorded_openai.contents["file-train"] = TRAIN.read_bytes()
    for number, prompt in enumerate(read_prompts(TEST)):
        wrong = number % 5 == 0 and number // 5 < OLD_MISTAKES
        recorded_openai.answers[prompt.messages[-1]["content"]] = "praise?" if wrong else str(prompt.expected)
    return recorded_openai


@pytest.fixture
def server(home: Path, base_model_dir: Path) -> Any:
    running = serve(home, TUNERY_MODEL_CACHE=str(base_model_dir.parent))
    yield running
    stop(running)


def wait_for(client: OpenAI, job_id: str) -> Any:
    deadline = time.monotonic() + 900
    while time.monotonic() < deadline:
        found = client.fine_tuning.jobs.retrieve(job_id)
        if found.status in ("succeeded", "failed", "cancelled"):
            assert found.status == "succeeded", found.error
            return found
        time.sleep(1)
    raise AssertionError("the job did not end in time")


def answers_of(client: OpenAI, model: str, prompts: list[Prompt]) -> list[ModelAnswer]:
    return list(capture(client, model, prompts, max_tokens=8))


@pytest.mark.e2e
@pytest.mark.timeout(1200)
def test_the_verdict_is_right_for_a_good_a_broken_and_a_thinly_tested_successor(
    server: Served, old_account: Any, home: Path, tmp_path: Path
) -> None:
    source = old_account.client()
    bundle = Bundle.create(tmp_path / "bundle", source=old_account.base_url, now=1)
    assert fetch_all(Source(source), bundle).failures == {}
    load_all(bundle, open_target(load_settings(home=home)))

    client = OpenAI(base_url=server.base_url, api_key=server.key)
    (good,) = retrain(client, [bundle.get("jobs", job(1)["id"])["job"]])
    assert good.new_job is not None, good.reason
    uploaded = client.files.create(file=("broken.jsonl", shuffled_labels(TRAIN)), purpose="fine-tune")
    broken = client.fine_tuning.jobs.create(
        model=BASE, training_file=uploaded.id, suffix="broken", hyperparameters={"n_epochs": 1}
    )
    new_model = wait_for(client, good.new_job).fine_tuned_model
    broken_model = wait_for(client, broken.id).fine_tuned_model

    root = server.base_url.removesuffix("/v1")
    client.post(f"{root}/tunery/v1/aliases", cast_to=object, body={"name": OLD, "target": new_model})
    raw = client.chat.completions.with_raw_response.create(
        model=OLD, messages=[{"role": "user", "content": "Hello"}], max_tokens=2
    )
    assert (raw.headers["x-tunery-model"], raw.parse().model) == (new_model, OLD)

    prompts = read_prompts(TEST)
    old = answers_of(source, OLD, prompts)
    new, base = answers_of(client, OLD, prompts), answers_of(client, BASE, prompts)
    made = make_report(old=old, new=new, base=base, now=1)
    assert made.decision.safe_to_switch == "yes", made.decision.reason
    assert made.base is not None and made.base.score.mean < made.new.score.mean - 0.3

    wrong = make_report(old=old, new=answers_of(client, broken_model, prompts), base=base, now=1)
    assert wrong.decision.safe_to_switch == "no", wrong.decision.reason
    assert make_report(old=old[:10], new=new[:10], base=None, now=1).decision.safe_to_switch == "not enough data"

    repeated = list(retrain(client, [bundle.get("jobs", job(1)["id"])["job"]]))
    assert repeated == [good], "a job that was retrained is not trained twice"
    assert client.fine_tuning.jobs.retrieve(good.new_job).metadata == {RETRAINED_FROM: job(1)["id"]}
