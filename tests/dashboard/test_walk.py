"""The whole loop without code, in two languages, by the mouse and by the keyboard alone: a small random model, but
real training, a real engine and a real browser."""

import re
from pathlib import Path

import pytest
from openpyxl import Workbook
from playwright.sync_api import Browser, Page, expect

from tests.dashboard.accessibility import violations
from tests.dashboard.browsing import Visitor
from tests.dashboard.conftest import visit
from tests.dashboard.hands import Hand, Keyboard, Mouse, wait_until_open
from tests.dashboard.stand import Stand
from tunery.texts import Translator, translator

NUM_EXAMPLES, EPOCHS = 24, 4
PLACE = re.compile(r"/datasets/table/file-")


@pytest.fixture
def workbook(tmp_path: Path) -> Path:
    """Questions and answers under names that need no choice, instructions under one that does."""
    book = Workbook()
    sheet = book.worksheets[0]
    sheet.append(["question", "answer", "tone"])
    for number in range(NUM_EXAMPLES):
        sheet.append([f"Where is parcel {number}?", f"Parcel {number} is on its way.", "Be kind."])
    path = tmp_path / "parcels.xlsx"
    book.save(path)
    return path


@pytest.mark.e2e
@pytest.mark.parametrize("hand", [Mouse(), Keyboard()], ids=["mouse", "keyboard"])
@pytest.mark.parametrize("locale", ["en-US", "ja-JP"])
def test_from_a_workbook_to_two_runs_in_one_chart(
    browser: Browser, server: Stand, workbook: Path, hand: Hand, locale: str
) -> None:
    _, key = server.new_project(f"walk {locale} {type(hand).__name__}")
    for visitor in visit(browser, server.url, locale=locale):
        walk = Walk(visitor, hand, translator(locale[:2]))
        walk.sign_in(key)
        walk.choose_columns(workbook)
        job = walk.create()
        walk.watch()
        walk.compare()
        walk.write_the_card()
        walk.again_with_changes(job)


class Walk:
    def __init__(self, visitor: Visitor, hand: Hand, t: Translator) -> None:
        self.visitor, self.page, self.hand, self.t = visitor, visitor.page, hand, t

    def sign_in(self, key: str) -> None:
        self.page.goto(self.visitor.url)
        self.hand.fill(self.page.get_by_label(self.t("signin.key"), exact=True), key)
        self.press_button("signin.submit")
        wait_until_open(self.page)

    def press_button(self, text: str, within: str = "body") -> None:
        self.hand.press(self.page.locator(within).get_by_role("button", name=self.t(text), exact=True).first)

    def follow(self, name: str | re.Pattern[str], within: str, address: str) -> Page:
        self.hand.press(self.page.locator(within).get_by_role("link", name=name).first)
        self.page.wait_for_url(address)
        wait_until_open(self.page)
        return self.page

    def open(self, section: str, address: str) -> Page:
        """From the menu."""
        return self.follow(self.t(section), "nav", address)

    def choose_columns(self, workbook: Path) -> None:
        page = self.open("nav.jobs", "**/dashboard/")
        self.follow(self.t("jobs.create"), "#main", "**/jobs/new")
        self.hand.upload(page.locator(".drop"), workbook)
        page.wait_for_url(PLACE)
        wait_until_open(page)
        preview = page.locator("section.report")
        expect(preview).to_contain_text("Parcel 3 is on its way.")
        self.hand.choose(page.get_by_role("combobox", name=self.t("table.instructions"), exact=True), "tone")
        expect(preview.locator(".message.system").first).to_contain_text("Be kind.")
        assert violations(page) == []
        self.press_button("table.save_and_create")
        page.wait_for_url("**/jobs/new?file=*")
        wait_until_open(page)

    def create(self) -> str:
        page, t, hand = self.page, self.t, self.hand
        report = page.locator("section.report")
        hand.choose(page.get_by_role("combobox", name=t("jobs.base")), "tiny")
        expect(report).to_contain_text(t("report.good", n=NUM_EXAMPLES, lines=NUM_EXAMPLES))
        hand.choose(page.get_by_role("combobox", name=t("create.validation")), t("create.split"))
        hand.fill(page.get_by_label(t("create.suffix")), "walk")
        hand.fill(page.get_by_label(t("create.n_epochs")), str(EPOCHS))
        hand.fill(page.get_by_label(t("samples.questions")), "Where is parcel 99?")
        expect(report).to_contain_text(t("reason.chosen"))
        self.expect_answers(EPOCHS)
        assert violations(page) == []
        self.press_button("create.submit")
        page.wait_for_url("**/jobs/ftjob-*")
        wait_until_open(page)
        return page.url

    def expect_answers(self, number: int) -> None:
        """To the sample prompt, one at each checkpoint: the report is that of the fields as they are."""
        said = self.t("samples.cost", num_answers=number, num_tokens="|", cost="").split("|")[0]
        expect(self.page.locator("section.report")).to_contain_text(said)

    def watch(self) -> None:
        """The samples come, one at each checkpoint."""
        page = self.page
        expect(page.locator(".chart canvas").first).to_be_visible()
        expect(page.locator(".chip").first).to_have_text(self.t("status.succeeded"), timeout=120_000)
        expect(page.locator(".samples")).to_contain_text("Where is parcel 99?")
        expect(page.locator(".samples .answers .message")).to_have_count(EPOCHS)
        assert violations(page) == []

    def compare(self) -> None:
        page = self.open("nav.compare", "**/compare")
        self.press_button("compare.start", "#main")
        page.wait_for_url("**/compare/eval_*")
        expect(page.get_by_text(self.t("compare.rows_title"))).to_be_visible(timeout=120_000)
        expect(page.locator(".note .lead").first).to_be_visible()  # the verdict in a sentence
        expect(page.locator("[role=table] tbody tr").first).to_be_visible()
        assert violations(page) == []

    def write_the_card(self) -> None:
        page = self.open("nav.models", "**/models")
        self.follow(re.compile("walk"), "#main tbody", "**/models/*")
        expect(page.locator(".tiles")).to_contain_text(self.t("models.days"))
        expect(page.locator("#main canvas")).to_be_visible()  # it was asked: its tokens by day
        self.press_button("models.write_card")
        self.hand.fill(page.get_by_label(self.t("models.card"), exact=True), "Kind, *mostly* right.")
        self.press_button("action.save", ".dialog")
        expect(page.locator(".card em")).to_have_text("mostly")
        assert violations(page) == []

    def again_with_changes(self, job: str) -> None:
        page = self.page
        self.open("nav.jobs", "**/dashboard/")
        self.follow(re.compile("walk"), "#main tbody", job)
        self.follow(self.t("job.again"), "#main", "**/jobs/new?again=*")
        self.hand.fill(page.get_by_label(self.t("create.n_epochs")), "2")
        self.expect_answers(2)
        self.press_button("create.submit")
        page.wait_for_url("**/jobs/ftjob-*beside=*")
        wait_until_open(page)
        expect(page.locator(".chip").first).to_have_text(self.t("status.succeeded"), timeout=120_000)
        self.follow(self.t("jobs.overlay"), "#main", "**/jobs/overlay*")
        expect(page.locator("[role=table] tbody")).to_contain_text(self.t("create.n_epochs"))
        names = "Number(document.querySelector('.chart').id.slice(1))"
        page.wait_for_function(f"getElement({names})?.chart?.getOption().series.length === 2")
        assert violations(page) == []
