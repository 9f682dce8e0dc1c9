"""A job's page and those around it: its owner's words, the same again with changes, several runs in one chart, and
being told of its end."""

from collections.abc import Iterator
from dataclasses import replace

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.dashboard.accessibility import violations
from tests.dashboard.browsing import Visitor
from tests.dashboard.conftest import visit
from tests.dashboard.latin import sentences
from tests.dashboard.rows import finished_job, insert_curve, insert_jobs, make_job, organization_and_project
from tests.dashboard.stand import Stand
from tunery.domain.hyperparameters import Hyperparameters
from tunery.domain.job_details import JobDetails
from tunery.domain.jobs import FineTuningJob, JobStatus
from tunery.store.database import write
from tunery.store.tables import jobs as job_table

ROW = '{"messages": [{"role": "user", "content": "Question %d?"}, {"role": "assistant", "content": "Answer %d."}]}\n'
WORDS = {"display_name": "Week 3", "notes": "Labels mended.\nMore rows.", "tags": ["nightly", "support"]}


@pytest.fixture
def signed_in(visitor: Visitor, stand: Stand) -> Visitor:
    visitor.sign_in(stand.key)
    return visitor


@pytest.fixture(scope="module")
def runs(stand: Stand) -> Iterator[tuple[FineTuningJob, FineTuningJob]]:
    """Two that differ in one number."""
    organization, project = organization_and_project(stand.database)
    first = finished_job(
        project, organization, suffix="careful", display_name="Careful", hyperparameters=Hyperparameters(3, 4, 1.8)
    )
    second = replace(first, id=first.id[:-4] + "next", display_name="Bold", hyperparameters=Hyperparameters(3, 4, 3.6))
    insert_jobs(stand.database, [first, second])
    for job in (first, second):
        insert_curve(stand.database, job, 54)
    yield first, second


def set_value(page: Page, label: str, value: str) -> None:
    page.get_by_label(label, exact=True).fill(value)


def test_a_job_is_created_again_with_changes(signed_in: Visitor, stand: Stand) -> None:
    client = stand.client()
    content, others = ("".join(ROW % (n, n) for n in rows).encode() for rows in (range(12), range(20, 31)))
    training = client.files.create(file=("week3.jsonl", content), purpose="fine-tune")
    held_out = client.files.create(file=("held-out.jsonl", others), purpose="fine-tune")
    first = client.fine_tuning.jobs.create(
        model="gpt-4o-mini-2024-07-18",
        training_file=training.id,
        validation_file=held_out.id,
        suffix="week-3",
        seed=11,
        method={"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 2, "batch_size": 4}}},
        metadata={"team": "support", "early_stopping": "true"},
    )
    client.post(f"{stand.url}/tunery/v1/jobs/{first.id}", body=WORDS, cast_to=dict)
    page = signed_in.go(f"/jobs/{first.id}")
    expect(page.locator(".notes")).to_have_text(WORDS["notes"])
    page.get_by_role("link", name="Again with changes").click()
    expect(page.locator(".note").first).to_contain_text("Filled in as Week 3 was")
    shown = {"Suffix": "week-3", "Seed": "11", "Epochs": "2", "Batch size": "4", "Learning rate multiplier": ""}
    shown |= {"Display name": "Week 3", "Notes": WORDS["notes"], "Tags": "nightly, support", "Metadata": "team=support"}
    for label, value in shown.items():
        expect(page.get_by_label(label, exact=True)).to_have_value(value)
    expect(page.get_by_role("checkbox", name="End when the validation loss has turned")).to_be_checked()
    expect(page.locator(".report")).to_contain_text("Ready to train: 12 examples")
    assert violations(page) == []
    set_value(page, "Learning rate multiplier", "3")
    set_value(page, "Metadata", "no pair")
    page.get_by_role("button", name="Start fine-tuning").click()
    expect(page.locator(".q-notification")).to_contain_text("no equals sign: no pair")
    set_value(page, "Metadata", "team=support\nticket=T=1")
    page.get_by_role("button", name="Start fine-tuning").click()
    page.wait_for_url("**/jobs/ftjob-*")
    again = client.fine_tuning.jobs.list(limit=1).data[0]
    assert again.id != first.id and again.id in page.url
    assert again.metadata == {"early_stopping": "true", "team": "support", "ticket": "T=1"}
    same = ("model", "training_file", "validation_file", "seed", "user_provided_suffix")
    assert [getattr(again, name) for name in same] == [getattr(first, name) for name in same]
    chosen = again.method.supervised.hyperparameters  # type: ignore[union-attr]
    assert (chosen.n_epochs, chosen.batch_size, chosen.learning_rate_multiplier) == (2, 4, 3)
    page.get_by_role("link", name="In one chart").click()
    expect(page.locator("[role=table] tbody")).to_contain_text("Learning rate multiplier")
    for job in (first, again):
        client.fine_tuning.jobs.cancel(job.id)
    client.files.delete(held_out.id)  # what is gone is told, and the rest filled in
    page = signed_in.go(f"/jobs/new?again={first.id}")
    expect(page.locator(".note.warn").first).to_contain_text(held_out.id)


def test_words_are_written_found_and_kept_until_the_server_has_them(signed_in: Visitor, stand: Stand) -> None:
    organization, project = organization_and_project(stand.database)
    job = make_job(project, organization, status=JobStatus.CANCELLED, metadata={"run_eval": "eval_1", "team": "a"})
    insert_jobs(stand.database, [job])
    page = signed_in.go(f"/jobs/{job.id}")
    page.get_by_role("button", name="Name and notes").click()
    dialog = page.locator(".dialog")
    expect(dialog.get_by_label("Metadata")).to_have_value("team=a")
    dialog.get_by_label("Tags").fill("quarterly")
    dialog.get_by_label("Notes").fill("Too bold.")
    assert violations(page) == []  # as it opens: axe mistakes what lies above what where a field has grown
    dialog.get_by_label("Metadata").fill(f"team={'x' * 513}")
    dialog.get_by_role("button", name="Save").click()
    expect(page.locator(".q-notification")).to_contain_text("512")
    expect(dialog.get_by_label("Notes")).to_have_value("Too bold.")
    dialog.get_by_label("Metadata").fill("team=b")
    dialog.get_by_role("button", name="Save").click()
    expect(page.locator(".notes")).to_have_text("Too bold.")
    expect(page.locator(".facts").first).to_contain_text("eval_1")
    signed_in.errors.clear()  # Chromium logs nothing of ours; the refused save is an answer of the API
    page = signed_in.go("/")
    for text in ("quarterly", "too bold", "team=b"):
        page.get_by_label("Search by name").fill(text)
        expect(page.locator("tbody tr")).to_have_count(1)
        expect(page.locator("tbody .badge")).to_have_text("quarterly")


@pytest.mark.parametrize("locale", ["en-US", "ja-JP"])
def test_runs_lie_over_each_other_with_what_differs(
    browser: Browser, stand: Stand, runs: tuple[FineTuningJob, FineTuningJob], locale: str
) -> None:
    for visitor in visit(browser, stand.url, locale=locale):
        visitor.sign_in(stand.key)
        page = visitor.go("/")
        for run in runs:
            page.locator("tr", has_text=run.id).get_by_role("checkbox").click()
        page.locator(".fields button").click()
        page.wait_for_url("**/jobs/overlay?jobs=*")
        expect(page.locator("[role=table] tbody tr")).to_have_count(
            2
        )  # the runs, and the one number that they differ in
        expect(page.locator("[role=table] tbody tr").last).to_contain_text("1.8")
        expect(page.locator("[role=table] tbody tr").last).to_contain_text("3.6")
        names = "return getElement(Number(document.querySelector('.chart').id.slice(1))).chart.getOption().series"
        page.wait_for_function("document.querySelector('.chart canvas')")
        assert page.evaluate(f"(() => {{ {names}.map(one => one.name) }})()") == ["Careful", "Bold"]
        assert violations(page) == []
        if locale == "ja-JP":
            assert sentences(page) == []
        page.set_viewport_size({"width": 375, "height": 720})
        assert page.evaluate("document.documentElement.scrollWidth") <= 375
        page.locator(".panel .buttons button").last.click()  # takes out the second run
        expect(page.locator("[role=table] tbody tr")).to_have_count(1)
        assert page.url.endswith(f"jobs={runs[0].id}")


def test_the_browser_tells_of_the_end_to_whoever_asked(signed_in: Visitor, stand: Stand) -> None:
    organization, project = organization_and_project(stand.database)
    job = make_job(project, organization, status=JobStatus.RUNNING, display_name="Nightly", step=1, total_steps=9)
    insert_jobs(stand.database, [job])
    signed_in.page.add_init_script(
        "window.told = []; window.asked = 0; window.Notification = class { static permission = 'default';"
        " static async requestPermission() { window.asked += 1; return Notification.permission = 'granted'; }"
        " constructor(title, options) { window.told.push([title, options.body]); } };"
    )
    page = signed_in.go(f"/jobs/{job.id}")
    assert page.evaluate("window.asked") == 0
    page.get_by_role("button", name="Tell me when it ends").click()
    expect(page.locator(".q-notification")).to_contain_text("will tell you")
    page.evaluate("window.emitEvent('tab', false)")  # as when another tab is looked at
    with write(stand.database) as conn:
        ended = (
            job_table.update().where(job_table.c.id == job.id).values(status="cancelled", finished_at=job.created_at)
        )
        conn.execute(ended)
    page.wait_for_function("window.told.length > 0")
    assert page.evaluate("window.told") == [["Fine-tuning job: Cancelled", "Nightly"]]
    assert page.evaluate("window.asked") == 1


def test_a_phone_shows_two_lines_a_job(browser: Browser, stand: Stand) -> None:
    organization, _ = organization_and_project(stand.database)
    project, key = stand.new_project("on a phone")
    details = JobDetails(metrics={"train_loss": 0.9, "full_valid_loss": 0.6524})
    done = finished_job(project, organization, suffix="weather-" * 8, tags=("quarterly",), details=details)
    going = make_job(project, organization, status=JobStatus.RUNNING, suffix="tickets", step=17, total_steps=54)
    insert_jobs(stand.database, [done, going])
    for visitor in visit(browser, stand.url, locale="en-US"):
        visitor.page.set_viewport_size({"width": 390, "height": 800})
        visitor.sign_in(key)
        page = visitor.go("/")
        for job, state, told in ((done, "Succeeded", "loss 0.652"), (going, "Running", "31 %")):
            row = page.locator("tbody tr", has=page.locator(f"a[href$='{job.id}']"))
            name, chip, brief = row.locator("a"), row.locator(".chip"), row.locator(".brief")
            expect(name).to_have_text(job.suffix or "", use_inner_text=True)
            expect(chip).to_have_text(state)
            expect(brief).to_have_text(f"10 min ago · {job.model} · {told}", use_inner_text=True)
            boxes = [box for part in (row, name, chip, brief) if (box := part.bounding_box())]
            (whole, first, beside, second), height = boxes, [box["height"] for box in boxes]
            assert height[0] < 80 and height[1] < 30 and height[3] < 30  # two lines, none of them broken
            assert beside["y"] < second["y"] and first["y"] < second["y"]
            assert all(whole["x"] <= box["x"] and box["x"] + box["width"] <= 390 for box in boxes[1:])
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        assert violations(page) == []
