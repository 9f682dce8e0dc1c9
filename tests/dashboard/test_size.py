"""Ten thousand jobs, twenty thousand steps, three hundred megabytes: pages stay as light as with ten."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.dashboard.browsing import Visitor
from tests.dashboard.conftest import visit
from tests.dashboard.rows import finished_job, insert_curve, insert_jobs, make_job, organization_and_project
from tests.dashboard.stand import Stand
from tests.migrate.reports import report
from tunery.domain.jobs import FineTuningJob

NUM_JOBS, NUM_STEPS, MAX_POINTS, NUM_ROWS = 10_000, 20_000, 520, 3_000
MAX_SENT, MAX_ELEMENTS = 150_000, 3_000
LARGE_BYTES = 300 * 1024 * 1024


@pytest.fixture(scope="module")
def long_job(stand: Stand) -> tuple[str, FineTuningJob]:
    """The key of a project with many jobs, and its job with many steps."""
    organization, _ = organization_and_project(stand.database)
    project, key = stand.new_project("large")
    many = [make_job(project, organization, suffix=f"many-{n}", created_at=1_700_000_000 + n) for n in range(NUM_JOBS)]
    long = finished_job(project, organization, suffix="long", step=NUM_STEPS, total_steps=NUM_STEPS)
    insert_jobs(stand.database, [*many, long])
    insert_curve(stand.database, long, NUM_STEPS)
    return key, long


@pytest.fixture
def visitor_of_many(browser: Browser, stand: Stand, long_job: tuple[str, FineTuningJob]) -> Iterator[Visitor]:
    for visitor in visit(browser, stand.url):
        visitor.sign_in(long_job[0])
        yield visitor


def is_light(page: Page) -> bool:
    """In bytes of the page as it was sent, and in elements: what its first paint waits for."""
    sent = page.evaluate("performance.getEntriesByType('navigation')[0].transferSize")
    return sent < MAX_SENT and page.locator("*").count() < MAX_ELEMENTS


def test_ten_thousand_jobs_come_light_and_are_searched(visitor_of_many: Visitor) -> None:
    page = visitor_of_many.go("/")
    expect(page.locator("tbody tr")).to_have_count(50)
    assert is_light(page)
    page.get_by_role("button", name="Show more").click()
    expect(page.locator("tbody tr")).to_have_count(100)
    page.get_by_label("Search by name").fill("many-123")
    expect(page.locator("tbody tr").first).to_contain_text("many-123")
    expect(page.locator("tbody tr")).to_have_count(11)  # many-123 and many-1230 to many-1239; an id has no such part


def test_twenty_thousand_steps_come_light_in_few_points(
    visitor_of_many: Visitor, long_job: tuple[str, FineTuningJob]
) -> None:
    page = visitor_of_many.go(f"/jobs/{long_job[1].id}")
    expect(page.locator(".chart canvas").first).to_be_visible()
    assert is_light(page)
    assert num_points(page) <= MAX_POINTS


def test_a_long_report_comes_light_and_is_read_in_pages(browser: Browser, stand: Stand) -> None:
    _, key = stand.new_project("long report")
    content = b"".join(report(rows=NUM_ROWS, new=0.97).as_json_lines())
    file_id = stand.client(key).files.create(file=("parity-long.jsonl", content), purpose="evals").id
    for visitor in visit(browser, stand.url):
        visitor.sign_in(key)
        page = visitor.go(f"/move/{file_id}")
        expect(page.locator(".example")).to_have_count(20)
        assert is_light(page)
        page.get_by_role("button", name="Show more").click()
        expect(page.locator(".example")).to_have_count(40)


def num_points(page: Page) -> int:
    """Of the longest line of the page's first chart, as the browser has it."""
    return page.evaluate(
        """() => {
            const id = document.querySelector('.nicegui-echart').id.slice(1);
            return Math.max(...getElement(id).chart.getOption().series.map((line) => line.data.length));
        }"""
    )


def test_a_curve_keeps_its_ends(stand: Stand, long_job: tuple[str, FineTuningJob]) -> None:
    key, job = long_job
    client = stand.client(key)
    curves = client.get(f"{stand.url}/tunery/v1/jobs/{job.id}/curves?points=500", cast_to=object)
    steps = [step for step, _ in json.loads(json.dumps(curves))["train_loss"]]
    assert (steps[0], steps[-1]) == (1, NUM_STEPS)
    assert len(steps) <= MAX_POINTS and steps == sorted(steps)


def test_a_file_of_300_mb_is_dropped_with_its_progress_shown(browser: Browser, stand: Stand, tmp_path: Path) -> None:
    line = json.dumps({"messages": [{"role": "user", "content": "x" * 9000}, {"role": "assistant", "content": "y"}]})
    path = tmp_path / "large.jsonl"
    with path.open("w") as file:
        for _ in range(LARGE_BYTES // (len(line) + 1)):
            file.write(line + "\n")
    _, key = stand.new_project("heavy")
    for visitor in visit(browser, stand.url):
        visitor.sign_in(key)
        page = visitor.go("/compare")  # no dataset yet
        page = visitor.go("/datasets")
        page.locator("input[type=file]").set_input_files(path)
        expect(page.locator(".drop-progress progress")).to_be_visible()
        page.wait_for_url("**/datasets/file-*", timeout=400_000)
        expect(page.locator("h1")).to_have_text("large.jsonl")
        expect(page.locator(".example").first).to_contain_text("Line 1")


def test_a_file_beyond_the_limit_is_refused_before_it_is_sent(browser: Browser, stand: Stand, tmp_path: Path) -> None:
    path = tmp_path / "huge.jsonl"
    with path.open("wb") as file:
        file.truncate(513 * 1024 * 1024)
    for visitor in visit(browser, stand.url):
        visitor.sign_in(stand.key)
        page = visitor.go("/datasets")
        page.locator("input[type=file]").set_input_files(path)
        expect(page.locator(".drop-message")).to_contain_text("larger than 512 MB")
