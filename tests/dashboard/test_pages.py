"""Each page in a real browser: it comes, it says nothing wrong, it can be used by everyone."""

import contextlib
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Browser, expect
from playwright.sync_api import Error as PlaywrightError

from tests.dashboard.accessibility import violations
from tests.dashboard.browsing import Visitor
from tests.dashboard.conftest import visit
from tests.dashboard.rows import (
    every_state,
    finished_job,
    insert_curve,
    insert_jobs,
    insert_model,
    make_job,
    organization_and_project,
)
from tests.dashboard.stand import Stand
from tunery.dashboard.jobs.overlay import overlay_path
from tunery.domain.ids import new_id
from tunery.domain.jobs import FineTuningJob, JobError, JobStatus
from tunery.domain.notices import WebhookEndpoint
from tunery.domain.tenants import ApiKey, Role, User, hash_secret, key_hint, lookup_prefix
from tunery.notify.summary import summarise
from tunery.store import dashboard_values, files, outbox, tenants, webhooks
from tunery.store import jobs as store_jobs
from tunery.store.database import read, write

PATHS = (
    "/", "/jobs/new", "/jobs/overlay", "/models", "/playground", "/stored", "/stored/dataset", "/batches", "/datasets",
    "/compare", "/evals", "/evals/new", "/weights", "/move", "/usage", "/bases", "/keys", "/webhooks", "/mail",
    "/members", "/limits", "/audit",
)  # fmt: skip
GOOD = '{"messages": [{"role": "user", "content": "Question %d?"}, {"role": "assistant", "content": "Answer %d."}]}\n'


@pytest.fixture(scope="module")
def jobs(stand: Stand) -> dict[JobStatus, FineTuningJob]:
    made = every_state(stand.database)
    insert_curve(stand.database, made[JobStatus.SUCCEEDED], 54)
    return made


@pytest.fixture(scope="module")
def dataset(stand: Stand) -> str:
    content = "".join(GOOD % (n, n) for n in range(12)).encode()
    return stand.client().files.create(file=("questions.jsonl", content), purpose="fine-tune").id


@pytest.fixture
def signed_in(visitor: Visitor, stand: Stand) -> Visitor:
    visitor.sign_in(stand.key)
    return visitor


def test_every_page_comes_without_complaint(signed_in: Visitor, jobs: object, dataset: str) -> None:
    for path in (*PATHS, f"/datasets/{dataset}"):
        page = signed_in.go(path)
        expect(page.locator("h1")).to_be_visible()
        assert page.locator("[role=alert]").all_inner_texts() == [], path


def test_axe_finds_no_serious_violation(browser: Browser, stand: Stand, jobs: dict, dataset: str) -> None:
    for visitor in visit(browser, stand.url):
        visitor.page.goto(f"{stand.url}/")
        found = violations(visitor.page)
        visitor.sign_in(stand.key)
        done, failed = jobs[JobStatus.SUCCEEDED].id, jobs[JobStatus.FAILED].id
        for path in (*PATHS, f"/jobs/{done}", f"/jobs/{failed}", f"/datasets/{dataset}", f"/jobs/new?file={dataset}"):
            visitor.go(path)
            visitor.page.wait_for_timeout(300)  # colours have a transition
            found += [f"{path}: {item}" for item in violations(visitor.page)]
        assert not found, "\n".join(found)


def test_a_phone_shows_every_page_without_sideways_scrolling(browser: Browser, stand: Stand, jobs: dict) -> None:
    for visitor in visit(browser, stand.url):
        visitor.page.set_viewport_size({"width": 375, "height": 720})
        visitor.sign_in(stand.key)
        some = [jobs[status].id for status in (JobStatus.SUCCEEDED, JobStatus.FAILED)]
        for path in (*PATHS, f"/jobs/{some[0]}", overlay_path(*some)):
            page = visitor.go(path)
            assert page.evaluate("document.documentElement.scrollWidth") <= 375, path


def test_the_menu_of_a_phone_leads_everywhere(browser: Browser, stand: Stand) -> None:
    for visitor in visit(browser, stand.url):
        visitor.page.set_viewport_size({"width": 375, "height": 720})
        visitor.sign_in(stand.key)
        page = visitor.go("/")
        page.locator(".menu summary").click()
        page.locator(".menu").get_by_role("link", name="Datasets").click()
        expect(page.locator("h1")).to_have_text("Datasets")


def test_a_wrong_key_is_refused_in_words(visitor: Visitor) -> None:
    visitor.page.goto(f"{visitor.url}/")
    visitor.page.fill("input[name=key]", "sk-wrong")
    visitor.page.keyboard.press("Enter")
    expect(visitor.page.get_by_role("alert")).to_contain_text("not valid")


def test_signing_in_leads_to_the_page_that_was_asked_for(visitor: Visitor, stand: Stand) -> None:
    visitor.page.goto(f"{stand.url}/dashboard/keys")
    visitor.page.fill("input[name=key]", stand.key)
    visitor.page.click("button[type=submit]")
    expect(visitor.page.locator("h1")).to_have_text("API keys")


def test_the_browser_keeps_one_cookie_out_of_reach_of_scripts(visitor: Visitor, stand: Stand) -> None:
    visitor.page.goto(f"{stand.url}/")
    visitor.page.fill("input[name=key]", stand.key)
    visitor.page.click("button[type=submit]")
    expect(visitor.page.locator("#main")).to_be_visible()
    (cookie,) = visitor.context.cookies()
    assert cookie["name"] == "tunery_session" and cookie["httpOnly"] and cookie["sameSite"] == "Lax"
    assert visitor.page.evaluate("document.cookie") == ""
    assert visitor.page.evaluate("localStorage.length") == 0


def end_sessions(stand: Stand, key_id: str = "") -> None:
    with write(stand.database) as conn:
        dashboard_values.remove_ended(conn, now=float("inf"))


def test_an_ended_session_leads_back_to_where_it_was(signed_in: Visitor, stand: Stand) -> None:
    end_sessions(stand)
    page = signed_in.page
    page.goto(f"{stand.url}/dashboard/datasets")
    expect(page.get_by_role("alert")).to_contain_text("session has ended")
    page.fill("input[name=key]", stand.key)
    page.click("button[type=submit]")
    expect(page.locator("h1")).to_have_text("Datasets")


def test_signing_out_closes_the_session(signed_in: Visitor, stand: Stand) -> None:
    signed_in.go("/").locator(".side").get_by_role("button", name="Sign out").click()
    expect(signed_in.page.locator("h1")).to_have_text("Sign in")
    signed_in.page.goto(f"{stand.url}/dashboard/")
    expect(signed_in.page.locator("h1")).to_have_text("Sign in")


def test_signing_out_ends_every_open_page(signed_in: Visitor, stand: Stand) -> None:
    paths = ("/keys", "/datasets", "/")
    tabs = [signed_in.open_tab() for _ in paths]
    for tab, path in zip(tabs, paths, strict=True):
        tab.goto(f"{stand.url}/dashboard{path}")
        tab.wait_for_function("window.did_handshake === true")
    signed_in.go("/").locator(".side").get_by_role("button", name="Sign out").click()
    for tab in tabs:
        expect(tab.locator("h1")).to_have_text("Sign in")


def end_by_revoking(stand: Stand, key_id: str) -> None:
    with write(stand.database) as conn:
        tenants.revoke_key(conn, key_id, time.time())


@pytest.mark.parametrize("end", [end_sessions, end_by_revoking])
def test_an_open_page_does_nothing_once_its_session_or_key_is_no_more(
    visitor: Visitor, stand: Stand, end: Callable[[Stand, str], None]
) -> None:
    project, secret = stand.new_project("ended")
    file = stand.client(secret).files.create(file=("mine.jsonl", (GOOD % (1, 1)).encode()), purpose="fine-tune")
    visitor.sign_in(secret)
    page, other = visitor.go("/datasets"), visitor.open_tab()
    other.goto(f"{stand.url}/dashboard/keys")
    page.get_by_role("button", name="Delete").click()
    (key,) = stand.admin_client().admin.organization.projects.api_keys.list(project).data
    signing_in = visitor.open_tab()  # nobody's page, though the browser sends the session's cookie for it
    signing_in.goto(f"{stand.url}/dashboard/sign-in?reason=expired&next=/dashboard/keys")
    signing_in.wait_for_function("window.did_handshake === true")
    signing_in.fill("input[name=key]", stand.key)
    end(stand, key.id)
    with contextlib.suppress(PlaywrightError):  # the page may have been led away already
        page.locator(".dialog").get_by_role("button", name="Delete").click(timeout=5_000)
    for tab in (page, other):  # the whole session is over, not the page alone
        expect(tab.locator("h1")).to_have_text("Sign in")
    expect(signing_in.locator("input[name=key]")).to_have_value(stand.key)
    signing_in.keyboard.press("Enter")
    expect(signing_in.locator("h1")).to_have_text("API keys")
    with read(stand.database) as conn:
        assert files.find_file(conn, file.id, project) is not None


def demote(stand: Stand, project: str, key_id: str) -> None:
    (member,) = stand.admin_client().admin.organization.projects.users.list(project).data
    stand.admin_client().admin.organization.projects.users.update(member.id, project_id=project, role="reader")


def narrow(stand: Stand, project: str, key_id: str) -> None:
    with write(stand.database) as conn:
        tenants.update_key(conn, key_id, expires_at=None, scopes=("api.all.read",))


@pytest.mark.parametrize("take", [demote, narrow])
def test_an_open_page_changes_nothing_once_the_right_to_change_is_gone(
    visitor: Visitor, stand: Stand, take: Callable[[Stand, str, str], None]
) -> None:
    project, secret = stand.new_project(f"taken-by-{take.__name__}")
    file = stand.client(secret).files.create(file=("mine.jsonl", (GOOD % (1, 1)).encode()), purpose="fine-tune")
    visitor.sign_in(secret)
    page = visitor.go("/datasets")
    page.get_by_role("button", name="Delete").click()
    (key,) = stand.admin_client().admin.organization.projects.api_keys.list(project).data
    take(stand, project, key.id)
    page.locator(".dialog").get_by_role("button", name="Delete").click()
    page.locator(".q-notification").wait_for()
    with read(stand.database) as conn:
        assert files.find_file(conn, file.id, project) is not None


def test_language_and_colours_are_chosen_and_kept(signed_in: Visitor) -> None:
    page = signed_in.go("/")
    page.locator(".side select[name=language]").select_option("ja")
    expect(page.locator("h1")).to_have_text("ファインチューニング")
    page.locator(".side select[name=theme]").select_option("dark")
    expect(page.locator("html[data-theme=dark]")).to_have_attribute("lang", "ja")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(17, 21, 26)"


def test_jobs_are_found_by_text_and_state(visitor: Visitor, stand: Stand) -> None:
    organization, _ = organization_and_project(stand.database)
    project, secret = stand.new_project("searched")
    running = make_job(project, organization, status=JobStatus.RUNNING, suffix="weather")
    paused = make_job(project, organization, status=JobStatus.PAUSED, suffix="tickets")
    insert_jobs(stand.database, [running, paused])
    visitor.sign_in(secret)
    page = visitor.go("/")
    expect(page.locator("tbody tr")).to_have_count(2)
    page.get_by_label("Search by name").fill("WEATHER")
    expect(page.locator("tbody tr")).to_have_count(1)
    expect(page.locator("tbody")).to_contain_text("weather")
    page.get_by_label("Search by name").fill("")
    page.get_by_role("combobox", name="Status").click()
    page.get_by_role("option", name="Paused").click()
    expect(page.locator("tbody tr")).to_have_count(1)
    expect(page.locator("tbody")).to_contain_text("tickets")


def run_cli(stand: Stand, secret: str, *arguments: str) -> str:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("TUNERY_", "OPENAI_"))}
    return subprocess.run(
        [sys.executable, "-m", "tunery", "--base-url", f"{stand.url}/v1", "--api-key", secret, *arguments],
        env={**clean, "COLUMNS": "200"}, capture_output=True, text=True, timeout=60, check=True,
    ).stdout  # fmt: skip


def test_a_job_that_was_given_up_is_resumed_by_api_command_line_and_page(visitor: Visitor, stand: Stand) -> None:
    organization, _ = organization_and_project(stand.database)
    project, secret = stand.new_project("given up")
    failed = JobError("training_failed", "The trainer stopped 5 times.")
    given_up = [
        make_job(project, organization, status=JobStatus.FAILED, suffix=way, error=failed, resumable=True)
        for way in ("api", "cli", "page")
    ]
    lost = make_job(project, organization, status=JobStatus.FAILED, suffix="lost", error=failed)
    going = replace(make_job(project, organization, status=JobStatus.RUNNING, suffix="going"), pause_requested=True)
    insert_jobs(stand.database, [*given_up, lost, going])
    by_api, by_cli, by_page = given_up
    listed = {line.split()[0]: line for line in run_cli(stand, secret, "jobs", "list").splitlines() if "ftjob" in line}
    assert {name for name, line in listed.items() if "can be resumed" in line} == {job.id for job in given_up}
    assert "failed" in listed[lost.id] and "running, pausing" in listed[going.id]
    assert "can be resumed" in run_cli(stand, secret, "jobs", "get", by_cli.id)
    assert stand.client(secret).fine_tuning.jobs.resume(by_api.id).status == "queued"
    assert run_cli(stand, secret, "jobs", "resume", by_cli.id).strip() == f"{by_cli.id} queued"
    visitor.sign_in(secret)
    page = visitor.go(f"/jobs/{lost.id}")
    expect(page.get_by_role("alert")).to_contain_text("stopped 5 times")
    expect(page.get_by_role("button", name="Resume")).not_to_be_visible()
    page = visitor.go(f"/jobs/{by_page.id}")
    page.get_by_role("button", name="Resume").click()
    expect(page.get_by_role("button", name="Resume")).not_to_be_visible()
    with read(stand.database) as conn:
        again = [store_jobs.get_job(conn, job.id) for job in given_up]
    assert [(job.status, job.error, job.resumable) for job in again] == [(JobStatus.QUEUED, None, False)] * 3


def test_a_name_with_markup_stays_a_name(signed_in: Visitor, stand: Stand) -> None:
    name = "<img src=x onerror=alert(1)>.jsonl"
    stand.client().files.create(file=(name, b'{"messages": []}\n'), purpose="fine-tune")
    page = signed_in.go("/datasets")
    expect(page.get_by_role("link", name=name)).to_be_visible()
    assert page.locator("table img").count() == 0


def test_a_file_that_is_not_jsonl_is_refused_in_words(signed_in: Visitor, tmp_path: Path) -> None:
    path = tmp_path / "notes.jsonl"
    path.write_text("Dear diary,\n")
    page = signed_in.go("/datasets")
    page.locator("input[type=file]").set_input_files(path)
    expect(page.locator(".drop-message")).to_contain_text("JSONL")
    signed_in.errors.clear()  # Chromium logs the refused upload itself


def test_the_report_tells_lines_and_what_to_do(signed_in: Visitor, tmp_path: Path) -> None:
    path = tmp_path / "broken.jsonl"
    path.write_text("".join(GOOD % (n, n) for n in range(11)) + '{"messages": [{"role": "robot", "content": "x"}]}\n')
    page = signed_in.go("/jobs/new")
    page.locator("input[type=file]").set_input_files(path)
    expect(page.locator(".report")).to_contain_text("A job would fail")
    expect(page.locator(".report tbody tr").first).to_contain_text("12")
    expect(page.get_by_role("button", name="Start fine-tuning")).to_be_disabled()


def test_a_job_that_is_over_shows_why_and_what(signed_in: Visitor, jobs: dict[JobStatus, FineTuningJob]) -> None:
    page = signed_in.go(f"/jobs/{jobs[JobStatus.FAILED].id}")
    expect(page.get_by_role("alert")).to_contain_text("Example 3 has no answer")
    expect(page.get_by_role("button", name="Cancel")).not_to_be_visible()
    page = signed_in.go(f"/jobs/{jobs[JobStatus.SUCCEEDED].id}")
    expect(page.get_by_role("link", name="Open in playground").first).to_be_visible()
    expect(page.locator(".facts").nth(1)).to_contain_text("72 examples: 3 passes over them")


def test_the_job_as_code_is_copied(signed_in: Visitor, jobs: dict[JobStatus, FineTuningJob]) -> None:
    page = signed_in.go(f"/jobs/{jobs[JobStatus.SUCCEEDED].id}")
    page.get_by_role("tab", name="curl").click()
    expect(page.locator("pre.code")).to_contain_text("curl http")
    assert jobs[JobStatus.SUCCEEDED].training_file in page.locator("pre.code").inner_text()


def test_two_tabs_acting_on_one_job_get_plain_words(signed_in: Visitor, jobs: dict[JobStatus, FineTuningJob]) -> None:
    path = f"/jobs/{jobs[JobStatus.QUEUED].id}"
    first = signed_in.go(path)
    second = signed_in.open_tab()
    second.goto(f"{signed_in.url}/dashboard{path}")
    first.get_by_role("button", name="Pause").click()
    expect(first.locator(".chip").first).to_have_text("Paused")
    expect(second.locator(".chip").first).to_have_text("Paused")
    expect(second.get_by_role("button", name="Resume")).to_be_visible()
    second.get_by_role("button", name="Resume").click()
    expect(first.locator(".chip").first).to_have_text(re.compile("Queued|Checking"))


def num_looks(stand: Stand, path: str = "/view") -> int:
    """How often the server was asked for what has this in its path, as its own count of requests says."""
    lines = httpx.get(f"{stand.url}/metrics", headers={"authorization": f"Bearer {stand.key}"}).text.splitlines()
    counts = [line for line in lines if line.startswith("tunery_api_requests_total") and path in line]
    return int(sum(float(line.rpartition(" ")[2]) for line in counts))


@pytest.mark.parametrize("status", [JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.CANCELLED])
def test_an_open_page_of_an_ended_job_asks_nothing(
    signed_in: Visitor, stand: Stand, jobs: dict[JobStatus, FineTuningJob], status: JobStatus
) -> None:
    page = signed_in.go(f"/jobs/{jobs[status].id}")
    expect(page.locator(".chip").first).to_be_visible()
    before = num_looks(stand)
    assert before > 0
    page.wait_for_timeout(4_000)
    assert num_looks(stand) == before


def test_an_open_list_of_ended_jobs_asks_again_only_when_it_is_shown_again(visitor: Visitor, stand: Stand) -> None:
    organization, _ = organization_and_project(stand.database)
    project, secret = stand.new_project("at rest")
    ended = (JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.CANCELLED)
    insert_jobs(stand.database, [make_job(project, organization, status=status) for status in ended])
    visitor.sign_in(secret)
    page = visitor.go("/")
    expect(page.locator("tbody tr")).to_have_count(3)
    before = num_looks(stand, '"/tunery/v1/jobs"')
    page.wait_for_timeout(5_000)
    assert num_looks(stand, '"/tunery/v1/jobs"') == before > 0
    insert_jobs(stand.database, [make_job(project, organization, status=JobStatus.RUNNING)])
    page.evaluate("window.emitEvent('tab', false); window.emitEvent('tab', true)")
    expect(page.locator("tbody tr")).to_have_count(4)
    page.wait_for_timeout(5_000)
    assert num_looks(stand, '"/tunery/v1/jobs"') >= before + 2  # what runs is looked at again


def test_all_events_of_a_job_can_be_seen(visitor: Visitor, stand: Stand) -> None:
    organization, _ = organization_and_project(stand.database)
    project, secret = stand.new_project("talkative")
    job = finished_job(project, organization, suffix="long")
    insert_jobs(stand.database, [job])
    insert_curve(stand.database, job, 250)
    visitor.sign_in(secret)
    page = visitor.go(f"/jobs/{job.id}")
    for num_events in (100, 200, 250):
        expect(page.locator(".events li")).to_have_count(num_events)
        expect(page.locator(".events li").last).to_contain_text(f"Step {251 - num_events}/250")
        if num_events < 250:
            page.get_by_role("button", name="Show more").click()
    expect(page.get_by_role("button", name="Show more")).not_to_be_visible()


def test_an_open_page_of_a_running_job_asks_once_a_second_at_most(
    signed_in: Visitor, stand: Stand, jobs: dict[JobStatus, FineTuningJob]
) -> None:
    job, begun = jobs[JobStatus.RUNNING], time.monotonic()
    before = num_looks(stand)
    page = signed_in.go(f"/jobs/{job.id}")
    page.wait_for_timeout(5_000)
    looks = num_looks(stand) - before
    assert 2 <= looks <= 2 + time.monotonic() - begun  # one for the page itself, one at each end of the time


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("http://10.0.0.7/hook", "private address 10.0.0.7"),
        ("http://[::1]:9/", "private address ::1"),
        ("http://169.254.169.254/latest", "private address 169.254.169.254"),
        ("ftp://example.com", "https://"),
        ("https://8.8.8.8/hook", ""),
    ],
)
def test_an_address_is_judged_while_it_is_entered(signed_in: Visitor, stand: Stand, url: str, said: str) -> None:
    page = signed_in.go("/webhooks")
    page.get_by_label("Address").fill("http://127.0.0.1/")
    expect(page.locator(".note.bad")).to_contain_text("private address 127.0.0.1")
    page.get_by_label("Address").fill(url)
    if said:
        expect(page.locator(".note.bad")).to_contain_text(said)
    else:
        expect(page.locator(".note")).to_have_count(0)


def test_a_private_address_is_refused_with_what_to_change(signed_in: Visitor, stand: Stand) -> None:
    page = signed_in.go("/webhooks")
    page.get_by_role("textbox", name="Name").fill("inside")
    page.get_by_label("Address").fill("http://192.168.0.7/hook")
    page.get_by_role("button", name="Add endpoint").click()
    expect(page.locator(".q-notification")).to_contain_text("webhook_allow_private_addresses")
    signed_in.errors.clear()
    assert all(endpoint.name != "inside" for endpoint in stand.client().webhooks.list())


def test_an_owner_sees_where_mail_goes_and_what_became_of_it(signed_in: Visitor, stand: Stand) -> None:
    organization, project = organization_and_project(stand.database)
    job = make_job(project, organization, status=JobStatus.FAILED, finished_at=2)
    told = summarise(job, cost=None, metrics={}, problems=()).to_json()
    with write(stand.database) as conn:
        for name in ("ada", "ben"):
            whose, topic = f"{name}@example.com", "fine_tuning.job.failed"
            notice = outbox.insert_outbox(conn, "email", topic, told, project_id=project, now=1, recipient=whose)
        outbox.mark_dead(conn, notice, now=2, error="550 no such <b>mailbox</b>")
    page = signed_in.go("/mail")
    expect(page.locator(".note.warn")).to_contain_text("reaches nobody")
    expect(page.locator("pre.code")).to_contain_text("TUNERY_SMTP_HOST")
    expect(page.locator("tbody tr", has_text="ada@example.com")).to_contain_text("Queued")
    refused = page.locator("tbody tr", has_text="ben@example.com")
    expect(refused).to_contain_text("550 no such <b>mailbox</b>")
    expect(refused).to_contain_text("Failed")


def test_no_list_ends_silently_at_a_hundred(signed_in: Visitor, stand: Stand) -> None:
    organization, project = organization_and_project(stand.database)
    with write(stand.database) as conn:
        for number in range(103):
            name = f"key number {number:03}"
            user = User(new_id("user"), organization, name, f"n{number}@example.com", Role.MEMBER, 1)
            tenants.insert_user(conn, user)
            secret = f"sk-{name}"
            tenants.insert_key(
                conn,
                ApiKey(
                    id=new_id("key"), organization_id=organization, project_id=project, user_id=user.id, name=name,
                    prefix=lookup_prefix(secret), hash=hash_secret(secret), hint=key_hint(secret), created_at=1,
                ),
            )  # fmt: skip
            webhooks.insert_endpoint(
                conn,
                WebhookEndpoint(new_id("webhook"), project, name, "https://a.example", ("x",), 1, "whsec_x", 1),
            )
    for path in ("/keys", "/webhooks", "/members"):
        page = signed_in.go(path)
        expect(page.locator("tbody tr", has_text="key number")).to_have_count(103)


def test_job_and_model_get_display_names(visitor: Visitor, stand: Stand) -> None:
    project, key = stand.new_project("shown")
    organization, _ = organization_and_project(stand.database)
    job = finished_job(project, organization, suffix="plain")
    insert_jobs(stand.database, [job])
    insert_model(stand.database, job)
    visitor.sign_in(key)
    page = visitor.go(f"/jobs/{job.id}")
    page.locator(".heading").get_by_role("button", name="Name and notes").click()
    page.locator(".dialog").get_by_label("Display name", exact=True).fill("Night run")
    page.locator(".dialog").get_by_label("Display name of the model").fill("日本語の <b>モデル</b>")
    page.get_by_role("button", name="Save").click()
    expect(page.locator("h1")).to_have_text("Night run")
    page = visitor.go("/playground")
    page.get_by_role("combobox", name="Model").first.click()
    expect(page.get_by_role("option", name="日本語の <b>モデル</b>").first).to_be_visible()


def test_a_key_is_made_shown_once_and_revoked(signed_in: Visitor, stand: Stand) -> None:
    page = signed_in.go("/keys")
    page.get_by_label("Name", exact=True).fill("<b>mailer</b>")
    page.get_by_role("button", name="Create key").click()
    secret = page.locator(".dialog .mono").inner_text()
    assert stand.client(secret).models.list().data
    page.get_by_role("button", name="Done").click()
    row = page.locator("tbody tr", has_text="<b>mailer</b>")
    row.get_by_role("button", name="Revoke").click()
    page.locator(".dialog").get_by_role("button", name="Revoke").click()
    expect(row).to_have_count(0)


def test_a_stranger_with_a_key_of_another_project_sees_nothing(visitor: Visitor, stand: Stand, jobs: dict) -> None:
    _, key = stand.new_project("elsewhere")
    visitor.sign_in(key)
    page = visitor.go("/")
    expect(page.locator(".steps")).to_be_visible()
    page = visitor.go(f"/jobs/{jobs[JobStatus.SUCCEEDED].id}")
    expect(page.get_by_role("alert")).to_contain_text("Could not find fine tune")


@pytest.mark.parametrize("role", list(Role))
def test_who_owns_no_organisation_is_not_led_to_what_only_its_owners_may(
    visitor: Visitor, stand: Stand, role: Role
) -> None:
    """Owning a project is not enough."""
    _, key = stand.new_project(f"team-{role}", role)
    visitor.sign_in(key)
    page = visitor.go("/")
    shown = page.locator(".side nav a").all_inner_texts()
    work = ["Fine-tuning", "Models", "Playground", "Stored answers", "Batches", "Datasets"]
    work += ["Compare", "Evaluations", "Weights", "Move from OpenAI", "Webhooks"]
    assert [name.split("\n")[-1] for name in shown] == work
    page = visitor.go("/usage")
    expect(page.get_by_role("alert")).to_contain_text("Your key may not do this")


def test_an_admin_key_changes_between_projects(visitor: Visitor, stand: Stand, jobs: object) -> None:
    key = stand.admin_client().admin.organization.admin_api_keys.create(name="dashboard").value
    stand.new_project("second")
    assert key is not None
    visitor.sign_in(key)
    page = visitor.go("/")
    expect(page.locator("tbody tr").first).to_be_visible()
    page.locator(".side select[name=project]").select_option("second")
    expect(page.locator(".steps")).to_be_visible()
    expect(page.locator(".side select[name=project] option:checked")).to_have_text("second")


def test_a_webhook_is_added_and_its_secret_shown_once(signed_in: Visitor) -> None:
    page = signed_in.go("/webhooks")
    page.get_by_label("Name", exact=True).fill("deploy")
    page.get_by_label("Address").fill("https://example.com/hook")
    page.get_by_role("button", name="Add endpoint").click()
    expect(page.locator(".dialog .mono")).to_contain_text("whsec_")
    page.get_by_role("button", name="Done").click()
    expect(page.locator("tbody tr", has_text="deploy")).to_contain_text("https://example.com/hook")
    expect(page.get_by_label("Address")).to_have_value("")


def test_the_engine_down_is_said_in_plain_words(signed_in: Visitor) -> None:
    page = signed_in.go("/playground")
    page.get_by_label("Your message").fill("Hello?")
    page.get_by_role("button", name="Send").click()
    expect(page.get_by_role("alert").first).to_contain_text("not ready")


def test_the_keyboard_reaches_content_first(signed_in: Visitor) -> None:
    page = signed_in.go("/datasets")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.keyboard.press("Enter")
    assert page.evaluate("location.hash") == "#main"


def test_every_event_that_happens_here_can_be_chosen_and_has_a_name(signed_in: Visitor, stand: Stand) -> None:
    page = signed_in.go("/webhooks")
    page.get_by_role("combobox", name="Events").click()
    page.locator(".q-menu [role=option]").first.wait_for()
    options = page.locator(".q-menu [role=option]").all_inner_texts()
    sent = stand.client().get("/webhook_event_types", cast_to=dict)["data"]
    assert len(options) == len(sent) and "Batch completed" in options and "Job failed" in options
    assert not [text for text in options if "." in text]
