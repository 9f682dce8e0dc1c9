"""The search of every page, by the keyboard alone."""

import pytest
from playwright.sync_api import Browser, Page, Route, expect

from tests.api.test_batch_datasets import chat_pair
from tests.dashboard.accessibility import violations
from tests.dashboard.browsing import Visitor
from tests.dashboard.conftest import visit
from tests.dashboard.latin import sentences
from tests.dashboard.rows import finished_job, insert_jobs, insert_model, organization_and_project
from tests.dashboard.stand import Stand
from tests.dashboard.test_batches import keep
from tests.dashboard.test_evals import keep_eval
from tunery.dashboard.search import FEW, NEWEST
from tunery.domain.jobs import FineTuningJob
from tunery.domain.tenants import Role
from tunery.texts import translator

ROW = b'{"messages": [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]}\n'
WORDS = {"en-US": translator("en"), "ja": translator("ja")}


@pytest.fixture(scope="module")
def zebra(stand: Stand) -> tuple[str, FineTuningJob]:
    """The key of a project in which one of each kind is called a zebra, and its job."""
    organization, _ = organization_and_project(stand.database)
    project, key = stand.new_project("zebras")
    job = finished_job(project, organization, suffix="zebra")
    insert_jobs(stand.database, [job])
    insert_model(stand.database, job)
    keep_eval(stand, project, name="Zebra <i>questions</i>")
    keep(stand, project, chat_pair("Q?", "A"), model="zebra-base")
    stand.client(key).files.create(file=("zebra.jsonl", ROW * 10), purpose="fine-tune")
    return key, job


@pytest.fixture
def at_home(visitor: Visitor, zebra: tuple[str, FineTuningJob]) -> Page:
    visitor.sign_in(zebra[0])
    return visitor.go("/")


def chosen(page: Page) -> str:
    """The option that a screen reader reads, by what the field says of it."""
    return page.evaluate(
        "document.getElementById(document.activeElement.getAttribute('aria-activedescendant'))?.textContent ?? ''"
    )


@pytest.mark.parametrize("locale", ["en-US", "ja"])
def test_all_kinds_are_found_and_opened_by_keys_alone(
    browser: Browser, stand: Stand, zebra: tuple[str, FineTuningJob], locale: str
) -> None:
    t, (key, job) = WORDS[locale], zebra
    for visitor in visit(browser, stand.url, locale=locale):
        visitor.sign_in(key)
        page = visitor.go("/usage")
        page.keyboard.press("Control+k")
        field = page.get_by_role("combobox", name=t("search.title"))
        expect(field).to_be_focused()
        expect(page.get_by_role("status").filter(has_text=t("search.how"))).to_be_visible()
        assert not violations(page)
        page.keyboard.type("zebra")
        groups = page.locator("#search [role=group]")
        kinds = [t(f"nav.{name}") for name in ("jobs", "models", "datasets", "evals", "batches")]
        expect(groups).to_have_count(len(kinds))
        assert [group.get_attribute("aria-label") for group in groups.all()] == kinds
        assert not violations(page)
        assert locale == "en-US" or not sentences(page)
        assert "zebra" in chosen(page)
        page.keyboard.press("ArrowUp")  # around to the last
        assert "batch_" in chosen(page)
        page.keyboard.press("ArrowUp")
        assert "<i>" in chosen(page)  # a name with markup stays a name
        for _ in range(2):
            page.keyboard.press("ArrowDown")
        page.keyboard.press("Enter")
        page.wait_for_url(f"**/dashboard/jobs/{job.id}")
        page.keyboard.press("Control+k")
        page.keyboard.type(t("mails.server"))  # a word on the page, which its name does not hold
        page.keyboard.press("Escape")
        expect(page.locator("#search")).to_be_hidden()


def test_settings_are_found_by_the_words_on_their_pages_by_who_may_see_them(visitor: Visitor, stand: Stand) -> None:
    for key, told in ((stand.new_project("readers", Role.READER)[1], "Nothing here"), (stand.key, "Found: 1")):
        visitor.context.clear_cookies()
        visitor.sign_in(key)
        page = visitor.go("/webhooks")
        page.locator(".side").get_by_role("button", name="Search").click()
        page.keyboard.type("tokens a minute")
        expect(page.locator("#search [role=status]")).to_contain_text(told)
    visitor.page.keyboard.press("Enter")
    visitor.page.wait_for_url("**/dashboard/limits")


def test_more_than_is_looked_through_is_said(visitor: Visitor, stand: Stand) -> None:
    project, key = stand.new_project("many evals")
    for _ in range(NEWEST + 1):
        keep_eval(stand, project, name="one of many")
    visitor.sign_in(key)
    page = visitor.go("/")
    page.keyboard.press("Control+k")
    page.keyboard.type("one of many")
    expect(page.locator("#search [role=status]")).to_contain_text("Looked through were the newest 100 of: Evaluations.")
    expect(page.locator("#search [role=option]")).to_have_count(FEW)


def test_an_answer_that_comes_late_is_dropped(at_home: Page) -> None:
    held: list[Route] = []
    at_home.route("**/dashboard/search?text=zebra", lambda route: held.append(route))
    at_home.keyboard.press("Control+k")
    at_home.keyboard.type("zebra")
    while not held:
        at_home.wait_for_timeout(20)
    at_home.keyboard.type(" nobody knows")
    expect(at_home.locator("#search [role=status]")).to_contain_text("Nothing here is called “zebra nobody knows”")
    held[0].continue_()
    at_home.wait_for_load_state("networkidle")
    expect(at_home.locator("#search [role=option]")).to_have_count(0)


def test_enter_waits_for_the_answer_to_what_was_typed_last(at_home: Page) -> None:
    at_home.keyboard.press("Control+k")
    at_home.keyboard.type("audit")
    at_home.keyboard.press("Control+a")
    at_home.keyboard.type("webhooks")
    at_home.keyboard.press("Enter")
    at_home.wait_for_url("**/dashboard/webhooks")
