"""The pages of tuned models: found, described, named, shared, and deleted with what depends on them told before."""

import pytest
from playwright.sync_api import Browser, expect

from tests.dashboard.accessibility import violations
from tests.dashboard.browsing import Visitor
from tests.dashboard.conftest import visit
from tests.dashboard.latin import sentences
from tests.dashboard.rows import finished_job, insert_jobs, insert_model, make_job, organization_and_project
from tests.dashboard.stand import Stand
from tunery.dashboard.tuned.model import as_markup
from tunery.dashboard.tuned.page import model_path
from tunery.domain.jobs import FineTuningJob

CARD = "# Support\n\nAnswers **tickets**. <b>No</b> ![x](http://example.com/x.png)\n\n- German is weak"


@pytest.fixture
def made(stand: Stand) -> FineTuningJob:
    organization, project = organization_and_project(stand.database)
    job = finished_job(project, organization, suffix="support")
    insert_jobs(stand.database, [job])
    insert_model(stand.database, job)
    return job


@pytest.fixture
def signed_in(visitor: Visitor, stand: Stand) -> Visitor:
    visitor.sign_in(stand.key)
    return visitor


def path_of(job: FineTuningJob) -> str:
    return model_path(str(job.fine_tuned_model)).removeprefix("/dashboard")


def test_markdown_of_people_runs_nothing_and_fetches_nothing() -> None:
    shown = as_markup("# A\n<script>x</script>\n\n[y](javascript:z) ![p](http://e/x.png) <img src=q onerror=r>")
    assert shown.startswith("<h3>A</h3>")
    assert "<script" not in shown and "<img" not in shown and 'href="javascript' not in shown


def test_a_model_is_found_described_named_and_shared(signed_in: Visitor, stand: Stand, made: FineTuningJob) -> None:
    stand.new_project("purchase")
    page = signed_in.go("/models")
    page.get_by_label("Search by name or alias").fill(str(made.fine_tuned_model)[-8:])
    expect(page.locator("tbody tr")).to_have_count(1)
    page.locator("tbody a").first.click()
    expect(page.locator("h1")).to_contain_text("support")
    page.get_by_role("button", name="Write the card").click()
    page.get_by_label("Display name").fill("Support, week 3")
    page.get_by_label("Card", exact=True).fill(CARD)
    assert violations(page) == []
    page.get_by_role("button", name="Save").click()
    expect(page.locator("h1")).to_have_text("Support, week 3")
    expect(page.locator(".card h3")).to_have_text("Support")
    expect(page.locator(".card")).to_contain_text("<b>No</b>")
    assert page.locator(".card img, .card b").count() == 0
    page.get_by_label("Name", exact=True).fill("support-bot")
    page.get_by_role("button", name="Add the name").click()
    expect(page.locator("table", has_text="Other names").locator("tbody")).to_contain_text("support-bot")
    page.get_by_role("combobox", name="Project").last.click()
    page.locator(".q-menu").get_by_role("option", name="purchase").click()  # the head has a list of projects, too
    page.get_by_role("button", name="Share", exact=True).click()
    expect(page.locator("table", has_text="Shared with").locator("tbody")).to_contain_text("purchase")
    expect(page.locator(".heading")).to_contain_text("support-bot")
    assert violations(page) == []


def test_what_depends_on_a_model_is_told_before_it_is_deleted(
    signed_in: Visitor, stand: Stand, made: FineTuningJob
) -> None:
    organization, project = organization_and_project(stand.database)
    name = str(made.fine_tuned_model)
    insert_jobs(stand.database, [make_job(project, organization, model=name, display_name="Week 4")])
    stand.client().post(f"{stand.url}/tunery/v1/aliases", body={"name": "helpdesk", "target": name}, cast_to=dict)
    page = signed_in.go(path_of(made))
    other = signed_in.open_tab()
    other.goto(page.url)
    expect(other.locator("h1")).to_contain_text("support")
    page.get_by_role("button", name="Delete", exact=True).click()
    expect(page.locator(".dialog")).to_contain_text("helpdesk")
    expect(page.locator(".dialog")).to_contain_text("Week 4")
    assert violations(page) == []
    page.locator(".dialog").get_by_role("button", name="Delete").click()
    page.wait_for_url("**/models")
    expect(other.get_by_role("alert")).to_contain_text("was deleted meanwhile")
    expect(other.get_by_role("button", name="Delete", exact=True)).not_to_be_visible()
    expect(other.locator("h1")).to_contain_text("support")  # what it was stays to be read
    assert name not in [model.id for model in stand.client().models.list()]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_of_a_model_in_japanese_and_narrow(
    browser: Browser, stand: Stand, made: FineTuningJob, scheme: str
) -> None:
    for visitor in visit(browser, stand.url, locale="ja-JP", color_scheme=scheme):
        visitor.page.set_viewport_size({"width": 375, "height": 720})
        visitor.sign_in(stand.key)
        for path in ("/models", path_of(made)):
            page = visitor.go(path)
            page.wait_for_timeout(300)
            assert violations(page) == []
            assert sentences(page) == []
            assert page.evaluate("document.documentElement.scrollWidth") <= 375, path


def test_a_model_that_is_not_there_leads_to_the_list(signed_in: Visitor) -> None:
    page = signed_in.go("/models/ft:none:x::AbCd1234")
    expect(page.get_by_role("alert")).to_contain_text("ft:none:x::AbCd1234")
    expect(page.get_by_role("alert").get_by_role("link")).to_have_attribute("href", "/dashboard/models")
