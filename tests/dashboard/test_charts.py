"""What a chart shows and how far a job is, for who listens to the page."""

from typing import Any

import pytest
from playwright.sync_api import Page, expect

from tests.dashboard.accessibility import violations
from tests.dashboard.browsing import Visitor
from tests.dashboard.rows import insert_curve, insert_jobs, make_job, organization_and_project
from tests.dashboard.stand import Stand
from tunery.dashboard.components.chart import MAX_ROWS
from tunery.domain.jobs import FineTuningJob, JobStatus
from tunery.store.database import write
from tunery.store.tables import jobs

TOTAL = 400
TOLD = """() => {
  window.told = [];
  const look = (changes) => changes.forEach(({target}) => {
    if (target.parentElement?.closest('.sr[aria-live=polite]')) window.told.push(target.data);
    if (target.matches?.('.sr[aria-live=polite]')) window.told.push(target.textContent);
  });
  new MutationObserver(look).observe(document.body, {subtree: true, childList: true, characterData: true});
}"""


@pytest.fixture
def running(stand: Stand) -> FineTuningJob:
    organization, project = organization_and_project(stand.database)
    job = make_job(project, organization, status=JobStatus.RUNNING, step=300, total_steps=TOTAL)
    insert_jobs(stand.database, [job])
    insert_curve(stand.database, job, 300)
    return job


@pytest.fixture
def page(visitor: Visitor, stand: Stand, running: FineTuningJob) -> Page:
    visitor.sign_in(stand.key)
    return visitor.go(f"/jobs/{running.id}")


def change(stand: Stand, job: FineTuningJob, **values: Any) -> None:
    with write(stand.database) as conn:
        conn.execute(jobs.update().where(jobs.c.id == job.id).values(**values))


def test_a_long_curve_is_a_short_table_that_follows_it(page: Page, stand: Stand, running: FineTuningJob) -> None:
    page.locator(".numbers summary").first.press("Enter")
    table = page.get_by_role("region", name="Loss")
    rows = table.locator("tbody tr")
    expect(rows).to_have_count(MAX_ROWS)
    expect(rows.first.locator("th")).to_have_text("1")
    expect(rows.last.locator("th")).to_have_text("300")
    validation = rows.locator("td:nth-child(3)").all_inner_texts()
    assert "–" not in validation[1:], "every tenth step has one, which no evenly spread row must miss"
    assert not violations(page)
    insert_curve(stand.database, running, 310, first=301)
    expect(rows.last.locator("th")).to_have_text("310")
    expect(rows).to_have_count(MAX_ROWS)


def test_progress_is_told_at_each_tenth_and_at_the_end(page: Page, stand: Stand, running: FineTuningJob) -> None:
    page.evaluate(TOLD)
    tiles = page.locator(".tiles")
    for step in (310, 320, 330, 340, 350, 361):
        change(stand, running, step=step)
        expect(tiles).to_contain_text(f"step {step} of {TOTAL}")
    change(stand, running, status="cancelled", finished_at=running.created_at)
    expect(page.locator(".chip.cancelled")).to_be_visible()
    tenths = ["80 % done: step 320 of 400", "90 % done: step 361 of 400"]
    assert page.evaluate("window.told") == [*tenths, "Fine-tuning job: Cancelled"]


def test_bars_have_a_row_each(visitor: Visitor, stand: Stand) -> None:
    line = '{"messages": [{"role": "user", "content": "%s"}, {"role": "assistant", "content": "A"}]}\n'
    content = "".join(line % ("word " * number) for number in range(1, 41)).encode()
    file = stand.client().files.create(file=("lengths.jsonl", content), purpose="fine-tune")
    visitor.sign_in(stand.key)
    page = visitor.go(f"/datasets/{file.id}")
    page.locator(".numbers summary").click()
    counts = page.locator(".numbers tbody td").all_inner_texts()
    assert len(counts) > 1 and sum(map(int, counts)) == 40
