"""Which weights are under a name stands wherever a name is shown, on pages and in commands; equal ones say so."""

import re
import time
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Locator, expect

from tests.cli.test_commands import tunery
from tests.dashboard.browsing import Visitor
from tests.dashboard.conftest import visit
from tests.dashboard.rows import BASE, finished_job, insert_jobs, insert_model, organization_and_project
from tests.dashboard.stand import Stand
from tests.migrate.reports import OLD, report
from tunery.domain.ids import new_id
from tunery.domain.jobs import Checkpoint, FineTuningJob
from tunery.domain.usage import Cost, TokenUsage, UsageRecord
from tunery.store import events
from tunery.store.database import write
from tunery.store.usage import record_usage

EMBEDDER, EMBEDDER_ALIAS = "text-embedding-3-small", "text-embedding-ada-002"
GONE = "ft:gpt-4o-mini-2024-07-18:personal:gone:deleted1"
ALIAS, ALSO = "support-bot", "gpt-4o-2024-08-06"  # the other answers with the base's weights


@pytest.fixture(scope="module")
def tuned(stand: Stand) -> Iterator[FineTuningJob]:
    """A job's model with a checkpoint, an alias that leads to it, and answers of it, of its base and of a lost one."""
    organization, project = organization_and_project(stand.database)
    job = finished_job(project, organization, suffix="weighed")
    insert_jobs(stand.database, [job])
    insert_model(stand.database, job)
    assert job.fine_tuned_model is not None
    now = int(time.time())
    with write(stand.database) as conn:
        step = f"{job.fine_tuned_model}:ckpt-step-27"
        events.add_checkpoint(conn, Checkpoint(new_id("checkpoint"), job.id, now, 27, step, {"train_loss": 1.0}))
        for model in (job.fine_tuned_model, BASE, GONE, EMBEDDER, EMBEDDER_ALIAS):
            usage, cost = TokenUsage(input_tokens=7, output_tokens=3), Cost(input=10**9, output=10**9)
            record = UsageRecord(new_id("request"), "completion", project, "", "", model, now, usage, cost, "usd")
            record_usage(conn, record)
    alias = {"name": ALIAS, "target": job.fine_tuned_model}
    stand.client().post(f"{stand.url}/tunery/v1/aliases", body=alias, cast_to=object)
    content = b"".join(report(model=job.fine_tuned_model).as_json_lines())
    stand.client().files.create(file=("parity-weights.jsonl", content), purpose="evals")
    yield job
    stand.client().delete(f"{stand.url}/tunery/v1/aliases?name={ALIAS}", cast_to=object)
    stand.client().models.delete(job.fine_tuned_model)  # other tests count on a first project without models


@pytest.fixture
def signed_in(browser: Browser, stand: Stand) -> Iterator[Visitor]:
    for visitor in visit(browser, stand.url):
        visitor.sign_in(stand.key)
        yield visitor


def row_of(visitor: Visitor, path: str, name: str) -> Locator:
    """The first row of the page's tables that names the model."""
    return visitor.go(path).locator("tbody tr", has_text=name).first


def test_usage_and_cost_tell_the_weights_of_each_model(signed_in: Visitor, tuned: FineTuningJob) -> None:
    expect(row_of(signed_in, "/usage", str(tuned.fine_tuned_model))).to_contain_text("Fine-tuned on smollm2")
    expect(row_of(signed_in, "/usage", str(tuned.fine_tuned_model))).to_contain_text(ALIAS)
    expect(row_of(signed_in, "/usage", GONE)).to_contain_text("Not a model of this project")
    for embedder in (EMBEDDER, EMBEDDER_ALIAS):
        expect(row_of(signed_in, "/usage", embedder)).to_contain_text("Weights: all-minilm")
    for table in signed_in.go("/usage").get_by_role("table").all()[:2]:
        of_base = table.locator("tbody tr").filter(has_text=ALSO).first
        expect(of_base).to_contain_text(re.compile(f"The same weights also answer as .*{ALSO}"))


def test_a_job_tells_them_in_its_title_and_of_each_checkpoint(signed_in: Visitor, tuned: FineTuningJob) -> None:
    page = signed_in.go(f"/jobs/{tuned.id}")
    expect(page.locator(".heading")).to_contain_text("Fine-tuned on smollm2")
    expect(page.locator("tbody tr", has_text="ckpt-step-27")).to_contain_text("Fine-tuned on smollm2")


def test_the_audit_log_tells_them_of_what_an_alias_was_pointed_at(signed_in: Visitor, tuned: FineTuningJob) -> None:
    entry = row_of(signed_in, "/audit", ALIAS)
    expect(entry).to_contain_text(f"→ {tuned.fine_tuned_model}")
    expect(entry).to_contain_text("Fine-tuned on smollm2")


def test_reports_of_the_move_tell_them_of_old_and_new(signed_in: Visitor, tuned: FineTuningJob) -> None:
    entry = row_of(signed_in, "/move", str(tuned.fine_tuned_model))
    expect(entry).to_contain_text("Fine-tuned on smollm2")
    expect(entry.get_by_role("cell", name=OLD)).to_contain_text("Not a model of this project")
    page = signed_in.go(str(entry.get_by_role("link").get_attribute("href")).removeprefix("/dashboard"))
    expect(page.locator(".facts")).to_contain_text("Fine-tuned on smollm2")
    expect(page.locator(".facts")).to_contain_text(re.compile(f"The same weights also answer as .*{ALSO}"))


def test_a_dataset_names_the_weights_that_it_is_checked_for(signed_in: Visitor, stand: Stand) -> None:
    file = stand.client().files.create(file=("w.jsonl", b'{"messages": []}\n'), purpose="fine-tune")
    page = signed_in.go(f"/datasets/{file.id}")
    page.get_by_role("combobox", name="Base model").click()
    expect(page.get_by_role("option", name=BASE)).to_contain_text("smollm2")


@pytest.mark.parametrize("command", [("usage",), ("costs",), ("jobs", "checkpoints", "{job}")], ids=" ".join)
def test_commands_tell_them_beside_each_model(stand: Stand, tuned: FineTuningJob, command: tuple[str, ...]) -> None:
    words = (word.format(job=tuned.id) for word in command)
    done = tunery("--base-url", f"{stand.url}/v1", "--api-key", stand.key, *words, home=stand.home)
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if str(tuned.fine_tuned_model) in line]
    assert lines and all("fine-tuned on smollm2" in line for line in lines)
    assert "weights" in done.stdout.splitlines()[0]


def test_usage_by_what_is_no_model_names_no_weights(stand: Stand, tuned: FineTuningJob) -> None:
    given = ("--base-url", f"{stand.url}/v1", "--api-key", stand.key, "usage", "--by", "project_id")
    assert "weights" not in tunery(*given, home=stand.home).stdout
