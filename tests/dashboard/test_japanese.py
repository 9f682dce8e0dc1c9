"""A walk through all pages in Japanese, with everything on them that can go wrong: no English sentence but data."""

import json
import re
import smtplib
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import httpx
import pytest
from playwright.sync_api import Browser, Page, expect
from sqlalchemy import Connection, text

from tests.dashboard.browsing import Visitor
from tests.dashboard.conftest import visit
from tests.dashboard.latin import sentences
from tests.dashboard.rows import finished_job, insert_curve, insert_jobs, make_job, organization_and_project
from tests.dashboard.stand import Stand
from tests.migrate.reports import NEW, report
from tests.rows import store_completion, store_response
from tunery.domain.job_details import JobDetails
from tunery.domain.jobs import FineTuningJob, JobError, JobStatus
from tunery.notify.summary import summarise
from tunery.notify.troubles import explained
from tunery.store import events, outbox
from tunery.store.database import write
from tunery.texts import reference, say, translator

T = translator("ja")
GOOD = '{"messages": [{"role": "user", "content": "質問 %d"}, {"role": "assistant", "content": "答え %d"}]}'
BAD = [
    '{"messages": [{"role": "robot", "content": "x"}, {"role": "assistant", "content": "y"}]}',
    '{"messages": [{"role": "user", "content": "a"}]}',
    '{"messages": [{"role": "user", "content": 3}, {"role": "assistant", "content": ""}], "extra": 1}',
    '{"messages": [], "messages": []}',
    '{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", "weight": 2}]}',
    '{"messages": [{"role": "assistant", "tool_calls": [{"id": "c", "type": "function", "function": '
    '{"name": "f", "arguments": "{"}}]}, {"role": "assistant", "content": "b"}]}',
    '{"input": {"messages": []}, "preferred_output": []}',
    '{"prompt": "a"}',
]
TOLD = [
    say("event.created", job="ftjob-1"),
    say("event.validating_both", training="file-1", validation="file-2"),
    say("event.truncated_training", count=2, most="4096"),
    say("event.smaller_batches", step=3, most=512),
    say("event.trainer_lost", reason=say("event.why.killed"), deaths=2, most=3),
    say("event.parity.unchecked", reason=say("event.parity.no_engine")),
    say("event.step.both", step=1, total=9, train_loss="2.10", valid_loss="2.20", full_valid_loss="2.30"),
    say("event.paused"),
]
FAILED = JobError(
    "invalid_training_file",
    say("job_error.invalid_training", detail=say("job_error.missing_key", example=3, name="messages")),
    "training_file",
)
GIVEN_UP = JobError("server_error", say("event.gave_up", deaths=3, reason=say("event.why.signal", name="SIGSEGV")))


class Place:
    """The first project, with a bad and a good file, jobs in every state, and everything else a page can list."""

    def __init__(self, stand: Stand) -> None:
        self.stand = stand
        self.client = stand.client()
        self.organization, self.project = organization_and_project(stand.database)
        rows = [GOOD % (number, number) for number in range(30)]
        self.good = self.store("good.jsonl", rows)
        self.poor = self.store("poor.jsonl", [*rows[:9], *[rows[0]] * 6, *[GOOD % (7, 8)] * 2])
        self.bad = self.store("bad.jsonl", [*rows, *BAD])
        self.jobs = self.make_jobs()
        self.parity = self.keep("parity-a.jsonl", b"".join(report(new=0.2, base=0.5).as_json_lines()))
        self.comparison = self.keep("comparison-a.jsonl", self.make_comparison())
        self.make_deliveries()
        self.answer = self.make_answers()
        self.limit()

    def store(self, name: str, lines: list[str]) -> str:
        content = "\n".join(lines).encode()
        return self.client.files.create(file=(name, content), purpose="fine-tune").id

    def keep(self, name: str, content: bytes) -> str:
        return self.client.files.create(file=(name, content), purpose="evals").id

    def make_jobs(self) -> dict[str, FineTuningJob]:
        who, now = (self.project, self.organization), int(time.time())
        going = {"started_at": now - 60, "step": 17, "total_steps": 54}
        made = {
            "succeeded": finished_job(*who, suffix="weather"),
            "failed": make_job(
                *who, status=JobStatus.FAILED, error=FAILED, finished_at=now - 5, training_file=self.bad
            ),
            "given_up": make_job(*who, status=JobStatus.FAILED, error=GIVEN_UP, finished_at=now - 5),
            "running": make_job(*who, status=JobStatus.RUNNING, training_file=self.good, **going),
            "paused": make_job(*who, status=JobStatus.PAUSED, **going),
            "queued": make_job(*who),
            "cancelled": make_job(*who, status=JobStatus.CANCELLED, finished_at=now - 5),
        }
        details = JobDetails(hyperparameter_reasons=REASONS, texts={"reasons": reference(REASONS)})
        made = {name: replace(job, details=details) for name, job in made.items()}
        insert_jobs(self.stand.database, list(made.values()))
        insert_curve(self.stand.database, made["succeeded"], 3)
        with write(self.stand.database) as conn:
            for job in made.values():
                for sentence in TOLD:
                    events.add_event(conn, job.id, sentence, now=now)
        return made

    def make_comparison(self) -> bytes:
        contestants = [{"model": NEW, "shots": 0}, {"model": "gpt-4o-mini-2024-07-18", "shots": 3}]
        plan = {
            "file_id": self.good, "filename": "good.jsonl", "contestants": contestants, "max_rows": 50,
            "shots_file": None,
        }  # fmt: skip
        numbers = {
            "exact": 0.5, "token_accuracy": 0.5, "mean_logprob": -1.0, "prompt_tokens": 20, "cached_tokens": 0,
            "completion_tokens": 5, "seconds": 1.0, "cost": 0.001, "currency": "usd",
        }  # fmt: skip
        summary = [one | numbers | {"label": one["model"]} for one in contestants]
        summary[1]["prompt_tokens"] = 90
        answers = [{"text": "答え", "is_exact": True}, {"text": "別の答え", "is_exact": False}]
        row = {
            "line": 1, "prompt": [{"role": "user", "content": "質問"}], "expected": "答え", "answers": answers,
            "differs": True,
        }  # fmt: skip
        head = {"plan": plan, "created_at": time.time(), "summary": summary}
        return "\n".join(json.dumps(item) for item in (head, row)).encode()

    def make_answers(self) -> str:
        """Stored ones, each that teaches nothing for another reason; the id of one that does."""
        with write(self.stand.database) as conn:
            for status in ("incomplete", "failed", "cancelled", "queued", "in_progress"):
                store_response(conn, self.project, "質問", None, status=status)
            store_response(conn, self.project, "質問", "答え", previous_response_id="resp_gone")
            store_completion(conn, self.project, "質問", "")
            return store_completion(conn, self.project, "質問", "答え")

    def make_deliveries(self) -> None:
        endpoint = self.client.webhooks.create(
            name="通知", url="https://example.com/hook", event_types=["fine_tuning.job.failed"]
        )
        errors = [
            say("delivery.private_address", host="example.com", address="10.0.0.1"),
            say("delivery.no_host", host="example.com"),
            say("delivery.no_dns", host="example.com"),
            explained(httpx.ConnectError("[SSL] certificate verify failed: self-signed certificate")),
            explained(smtplib.SMTPSenderRefused(550, b"we take no mail from there", "a@example.com")),
            say("delivery.refused", reason=say("delivery.not_an_address", url="https://")),
            say("delivery.redirect", status=302),
            say("delivery.timeout", name="ConnectTimeout"),
        ]
        now = time.time()
        with write(self.stand.database) as conn:
            outbox.insert_outbox(
                conn, "webhook", "fine_tuning.job.failed", {}, project_id=self.project, now=now, endpoint_id=endpoint.id
            )
            (notice,) = [each for each in outbox.claim_due(conn, "w", now=now, lease_s=600) if each.kind == "webhook"]
            for error in errors:
                outbox.add_delivery(conn, notice, now=now, duration_ms=12, error=error)
            self.make_mail(conn, now)

    def make_mail(self, conn: Connection, now: float) -> None:
        told = summarise(self.jobs["failed"], cost=None, metrics={}, problems=()).to_json()
        topic, error = "fine_tuning.job.failed", explained(smtplib.SMTPAuthenticationError(535, b"no such user here"))
        id = outbox.insert_outbox(conn, "email", topic, told, project_id=self.project, now=1, recipient="a@example.com")
        (notice,) = [each for each in outbox.claim_due(conn, "w", now=now, lease_s=600) if each.kind == "email"]
        outbox.add_delivery(conn, notice, now=now, duration_ms=12, error=error)
        outbox.mark_dead(conn, id, now=now, error=error)

    def limit(self) -> None:
        path = f"{self.stand.url}/tunery/v1/organization/projects/{self.project}/limits"
        self.client.post(path, cast_to=object, body={"monthly_budget": 5_000_000_000})


REASONS = {
    "n_epochs": say("reason.n_epochs", examples=72, epochs=3),
    "batch_size": say("reason.batch_size", examples=72),
    "learning_rate_multiplier": say("reason.learning_rate_multiplier"),
}


@pytest.fixture(scope="module")
def place(stand: Stand) -> Place:
    return Place(stand)


@pytest.fixture
def reader(browser: Browser, stand: Stand) -> Iterator[Visitor]:
    """A Japanese browser, not signed in."""
    yield from visit(browser, stand.url, locale="ja-JP")


@pytest.fixture
def walker(reader: Visitor, place: Place) -> Visitor:
    reader.sign_in(place.stand.key)
    return reader


def test_the_walk_sees_a_sentence_wherever_it_stands(reader: Visitor) -> None:
    """The finder itself, on a page with English in a text, an attribute, and beside data."""
    reader.page.set_content(
        "<p>日本語 and then some English</p><input placeholder='Search by name'><p>日本語 JSONL 512 MB</p>"
        "<pre>this is code here</pre><p><code>ft:a b c</code> 名</p><option>Choose a file now</option>"
    )
    assert [found.split(":")[0] for found in sentences(reader.page)] == ["P", "OPTION", "@placeholder"]


def test_signing_in_speaks_japanese(reader: Visitor) -> None:
    for reason in ("", "expired", "wrong", "unreachable", "origin"):
        reader.page.goto(f"{reader.url}/dashboard/sign-in?reason={reason}")
        assert sentences(reader.page) == []


def test_every_page_speaks_japanese(walker: Visitor, place: Place) -> None:
    paths = [
        "/", "/jobs/new", "/playground", "/stored", "/stored/dataset", "/stored/resp_none", f"/stored/{place.answer}",
        "/datasets", "/batches", "/batches/batch_none", "/compare", "/evals", "/evals/new", "/move", "/usage",
        "/keys", "/webhooks", "/members", "/mail", "/limits", "/audit", "/models", "/models/none", "/bases", "/weights",
        "/jobs/overlay", f"/jobs/overlay?jobs={place.jobs['succeeded'].id},{place.jobs['running'].id}",
        "/jobs/ftjob-none", "/datasets/file-none", "/move/file-none", "/compare/run-lost",
        f"/datasets/{place.good}", f"/compare/{place.comparison}", f"/move/{place.parity}", f"/move/{place.comparison}",
        *(f"/jobs/{job.id}" for job in place.jobs.values()),
    ]  # fmt: skip
    found = []
    for path in paths:
        page = walker.go(path)
        expect(page.locator("h1, .empty").first).to_be_visible()
        found += [f"{path} {sentence}" for sentence in sentences(page)]
    assert found == []


def test_a_project_with_nothing_in_it_speaks_japanese(reader: Visitor, stand: Stand) -> None:
    reader.sign_in(stand.new_project("empty-ja")[1])
    page = reader.go("/")
    found = sentences(page)
    for path in (
        "/stored",
        "/stored/dataset",
        "/batches",
        "/datasets",
        "/compare",
        "/move",
        "/webhooks",
        "/usage",
        "/keys",
    ):  # the last two are not for members
        found += sentences(reader.go(path))
    assert found == []


def test_a_page_that_is_not_there_speaks_japanese(walker: Visitor) -> None:
    walker.page.goto(f"{walker.url}/dashboard/nowhere")
    expect(walker.page.locator("body")).to_contain_text(re.compile("[ぁ-ん]"))
    walker.errors.clear()  # Chromium logs the status itself
    assert sentences(walker.page) == []


def test_a_page_that_cannot_even_begin_speaks_japanese_and_tells_no_exception(walker: Visitor, stand: Stand) -> None:
    """Its session cannot be read: the page fails before anything of it is built."""
    with write(stand.database) as conn:
        conn.execute(text("ALTER TABLE dashboard_values RENAME TO hidden"))
    try:
        answer = walker.page.goto(f"{walker.url}/dashboard/keys")
    finally:
        with write(stand.database) as conn:
            conn.execute(text("ALTER TABLE hidden RENAME TO dashboard_values"))
    assert answer is not None and answer.status == 500
    expect(walker.page.locator(".empty")).to_contain_text(T("error.unexpected"))
    assert "OperationalError" not in answer.text()
    walker.errors.clear()  # Chromium logs the status itself
    assert sentences(walker.page) == []


def press(page: Page, key: str, **values: object) -> None:
    page.get_by_role("button", name=T(key, **values), exact=True).first.click()


def bad_key(page: Page) -> None:
    press(page, "keys.create")
    page.locator(".q-notification").wait_for()


def new_key(page: Page) -> None:
    page.get_by_label(T("keys.name"), exact=True).fill("walker")
    press(page, "keys.create")
    page.locator(".dialog").wait_for()


def revoke_key(page: Page) -> None:
    press(page, "keys.revoke")
    page.locator(".dialog").wait_for()


def bad_address(page: Page) -> None:
    page.get_by_label(T("webhooks.url")).fill("ftp://example.com")
    press(page, "webhooks.create")
    page.locator(".q-notification").wait_for()


def judged_address(page: Page, url: str) -> None:
    page.get_by_label(T("webhooks.url")).fill(url)
    page.locator(".note").wait_for()


def unknown_host(page: Page) -> None:
    judged_address(page, "https://no-such-host.invalid/")


def address_without_brackets(page: Page) -> None:
    judged_address(page, "https://fe80::1/")


def private_address(page: Page) -> None:
    judged_address(page, "http://2130706433/")


def new_secret(page: Page) -> None:
    press(page, "webhooks.rotate")
    page.locator(".dialog").wait_for()


def ask_to_delete(page: Page) -> None:
    press(page, "action.delete")
    page.locator(".dialog").wait_for()


def bad_upload(page: Page) -> None:
    content = b'{"messages": [}\n'
    page.locator("input[type=file]").set_input_files({"name": "a.jsonl", "mimeType": "", "buffer": content})
    expect(page.locator(".drop-message")).to_contain_text("JSONL")


def wait_for_report(page: Page) -> None:
    page.locator(".report .note").first.wait_for()


def open_choices(page: Page) -> None:
    page.locator("#main").get_by_role("combobox").first.click()
    page.locator(".q-menu [role=option]").first.wait_for()


def refused_hyperparameter(page: Page) -> None:
    wait_for_report(page)
    page.get_by_label(T("create.n_epochs"), exact=True).fill("99")
    page.locator(".report .note.bad").wait_for()


def cancelled_comparison(page: Page) -> None:
    """Nobody answers: there is no worker."""
    press(page, "compare.start")
    page.wait_for_url("**/compare/eval_*")
    page.locator(".big-progress progress, .big-progress").first.wait_for()
    press(page, "evals.cancel")
    page.locator(".note.warn").wait_for()


def ask_to_cancel(page: Page) -> None:
    press(page, "job.cancel")
    page.locator(".dialog").wait_for()


def talk_without_an_engine(page: Page) -> None:
    page.get_by_label(T("playground.prompt"), exact=True).fill("?")
    press(page, "playground.send")
    page.get_by_role("alert").first.wait_for()


@pytest.mark.parametrize(
    ("path", "act"),
    [
        ("/keys", bad_key),
        ("/keys", new_key),
        ("/keys", revoke_key),
        ("/webhooks", bad_address),
        ("/webhooks", unknown_host),
        ("/webhooks", address_without_brackets),
        ("/webhooks", private_address),
        ("/webhooks", new_secret),
        ("/webhooks", ask_to_delete),
        ("/datasets", bad_upload),
        ("/datasets", ask_to_delete),
        ("/jobs/new?file={0.bad}", wait_for_report),
        ("/jobs/new?file={0.poor}", wait_for_report),
        ("/jobs/new?file={0.good}", refused_hyperparameter),
        ("/jobs/new", open_choices),
        ("/compare", cancelled_comparison),
        ("/compare", open_choices),
        ("/jobs/{0.jobs[running].id}", ask_to_cancel),
        ("/playground", talk_without_an_engine),
    ],
)
def test_what_a_page_answers_is_japanese(walker: Visitor, place: Place, path: str, act: Callable[[Page], None]) -> None:
    page = walker.go(path.format(place))
    act(page)
    walker.errors.clear()  # Chromium logs a refused upload itself
    assert sentences(page) == []


def test_a_job_that_is_refused_when_it_is_sent_speaks_japanese(walker: Visitor, place: Place) -> None:
    """Its file went while the form was open."""
    file = place.store("gone.jsonl", [GOOD % (number, number) for number in range(12)])
    page = walker.go(f"/jobs/new?file={file}")
    wait_for_report(page)
    place.client.files.delete(file)
    press(page, "create.submit")
    expect(page.locator(".q-notification")).to_contain_text(file)
    assert sentences(page) == []


def test_a_wrong_key_is_refused_in_japanese(reader: Visitor) -> None:
    reader.page.goto(f"{reader.url}/")
    reader.page.fill("input[name=key]", "sk-wrong-ja")
    reader.page.keyboard.press("Enter")
    reader.page.get_by_role("alert").wait_for()
    assert sentences(reader.page) == []
