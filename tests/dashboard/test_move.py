"""Parity reports in the browser: made by the report code, kept as the command keeps them."""

import json
from collections.abc import Callable

import pytest
from playwright.sync_api import Browser, expect

from tests.dashboard.accessibility import violations
from tests.dashboard.browsing import Visitor
from tests.dashboard.conftest import visit
from tests.dashboard.stand import Stand
from tests.migrate.reports import NEW, OLD, answers, report, without_expected
from tunery.migrate.report import Report, make_report

Keep = Callable[[str, bytes], str]


@pytest.fixture(scope="module")
def key(stand: Stand) -> str:
    return stand.new_project("moving")[1]


@pytest.fixture(scope="module")
def keep(stand: Stand, key: str) -> Keep:
    """Stores a file of the purpose of reports; returns its id."""
    files = stand.client(key).files
    return lambda name, content: files.create(file=(name, content), purpose="evals").id


@pytest.fixture
def mover(visitor: Visitor, key: str) -> Visitor:
    visitor.sign_in(key)
    return visitor


def lines_of(made: Report) -> bytes:
    return b"".join(made.as_json_lines())


def test_without_a_report_the_page_names_the_next_command(visitor: Visitor, stand: Stand) -> None:
    visitor.sign_in(stand.new_project("empty")[1])
    page = visitor.go("/move")
    expect(page.locator(".empty")).to_contain_text("tunery migrate openai report old.golden.jsonl NEW_MODEL")
    expect(page.locator(".steps li")).to_have_count(6)


def test_reports_are_listed_newest_first_and_lead_to_theirs(mover: Visitor, keep: Keep) -> None:
    keep("parity-a.jsonl", lines_of(report(model="ft:gpt-4o-mini-2024-07-18:personal:first:XyZ98765")))
    keep("parity-b.jsonl", lines_of(report(new=0.2)))
    page = mover.go("/move")
    rows = page.locator("tbody tr")
    expect(rows.nth(0)).to_contain_text("No")
    expect(rows.nth(0)).to_contain_text(OLD)
    expect(rows.nth(1)).to_contain_text("personal:first")
    expect(rows.nth(1)).to_contain_text("Yes")
    expect(rows.nth(1)).to_contain_text("60")
    rows.nth(1).get_by_role("link").click()
    expect(page.locator(".note.good")).to_contain_text("Yes, it is safe to switch")


@pytest.mark.parametrize(
    ("made", "sentence", "why"),
    [
        (report(), "Yes, it is safe to switch", "Even the low end is within the margin of 5 points"),
        (report(new=0.2, base=0.1), "No, do not switch", "Even the high end is beyond the margin of 5 points"),
        (report(new=0.2, base=0.5), "No, do not switch", "no better than the untrained base"),
        (report(rows=12), "there is not enough data", "add at least 18 more"),
        (report(rows=40, old=0.9, new=0.8), "there is not enough data", "The interval crosses the margin of 5 points"),
    ],
)
def test_the_verdict_comes_first_with_its_reason(
    mover: Visitor, keep: Keep, made: Report, sentence: str, why: str
) -> None:
    page = mover.go(f"/move/{keep('parity-c.jsonl', lines_of(made))}")
    verdict = page.locator("#main .note").first
    expect(verdict).to_contain_text(sentence)
    expect(verdict).to_contain_text(why)


def test_measures_and_costs_are_those_of_the_report(mover: Visitor, keep: Keep) -> None:
    made = report(new=0.8)
    page = mover.go(f"/move/{keep('parity-d.jsonl', lines_of(made))}")
    score = page.locator("tbody tr", has_text="Score")
    for summary in (made.old, made.new, made.base):
        assert summary is not None
        expect(score).to_contain_text(f"{100 * summary.score.mean:.1f} %")
        expect(score).to_contain_text(f"{100 * summary.score.low:.1f} % to {100 * summary.score.high:.1f} %")
    expect(page.locator(".tiles")).to_contain_text("$0.0084 → $0.0042")
    expect(page.locator(".tiles")).to_contain_text("50 % less")


def test_a_report_without_base_expected_answers_and_prices_is_shown_too(mover: Visitor, keep: Keep) -> None:
    old = without_expected(answers(40, 1.0, model=OLD))
    made = make_report(old=old, new=without_expected(answers(40, 0.9, model=NEW, seed=1)), base=None, now=1)
    page = mover.go(f"/move/{keep('parity-e.jsonl', lines_of(made))}")
    expect(page.locator(".tiles")).to_contain_text("likeness to the old model's answers")
    expect(page.locator(".tiles")).to_contain_text("not all prices are known")
    expect(page.get_by_text("The base is the untrained")).to_have_count(0)
    expect(page.get_by_text("Expected", exact=True)).to_have_count(0)


def test_rows_come_differing_ones_first_and_in_pages(mover: Visitor, keep: Keep) -> None:
    made = report(rows=50, new=0.8)
    different = sum(row.similarity < 1 for row in made.rows)
    assert 0 < different < 20
    page = mover.go(f"/move/{keep('parity-f.jsonl', lines_of(made))}")
    rows = page.locator(".example")
    expect(rows).to_have_count(20)
    expect(rows.filter(has_text="Answers differ")).to_have_count(different)
    expect(rows.nth(different - 1)).to_contain_text("Answers differ")
    expect(rows.nth(0)).to_contain_text(f"Ticket {made.rows[0].row} <b>")
    expect(rows.nth(0).locator(".pair .content")).to_have_text([made.rows[0].old.text, made.rows[0].new.text])
    more = page.get_by_role("button", name="Show more")
    more.click()
    expect(rows).to_have_count(40)
    more.click()
    expect(rows).to_have_count(50)
    expect(more).not_to_be_visible()
    shown = [line.split("\n")[0] for line in page.locator(".example .line").all_inner_texts()]
    assert len(set(shown)) == 50


HEAD = json.loads(next(report().as_json_lines()))
FOREIGN = {
    "text": b"Dear diary,\n",
    "empty": b"\n",
    "array": b"[1, 2, 3]\n",
    "comparison": b'{"plan": {}, "summary": []}\n',
    "no-verdict": json.dumps({**HEAD, "decision": {"safe_to_switch": "perhaps"}}).encode() + b"\n",
    "infinite": json.dumps({**HEAD, "margin": float("inf")}).encode() + b"\n",
    "text-for-number": json.dumps({**HEAD, "old": {**HEAD["old"], "num_rows": "many"}}).encode() + b"\n",
    "far-future": json.dumps({**HEAD, "created_at": 10**18}).encode() + b"\n",
    "bad-row": json.dumps(HEAD).encode() + b'\n{"row": 1, "old": null}\n',
    "binary": bytes(range(256)) * 50,
    "one-long-line": b"x" * (9 * 1024 * 1024),
}


@pytest.mark.parametrize("name", sorted(FOREIGN))
def test_a_file_that_is_something_else_is_told_so(mover: Visitor, keep: Keep, name: str) -> None:
    page = mover.go(f"/move/{keep(f'parity-{name}.jsonl', FOREIGN[name])}")
    expect(page.locator(".empty")).to_contain_text("This file is not a parity report")


def test_foreign_files_do_not_hide_the_reports_among_them(visitor: Visitor, stand: Stand) -> None:
    _, key = stand.new_project("mixed")
    files = stand.client(key).files
    for name, content in {**FOREIGN, "real": lines_of(report())}.items():
        files.create(file=(f"parity-{name}.jsonl", content), purpose="evals")
        files.create(file=(f"{name}.jsonl", content), purpose="evals")
    visitor.sign_in(key)
    page = visitor.go("/move")
    links = page.locator("tbody a").all_inner_texts()
    assert NEW in links and set(links) == {NEW}


def test_many_reports_come_in_pages(visitor: Visitor, stand: Stand) -> None:
    _, key = stand.new_project("often")
    content = lines_of(report())
    for n in range(23):
        stand.client(key).files.create(file=(f"parity-{n}.jsonl", content), purpose="evals")
    visitor.sign_in(key)
    page = visitor.go("/move")
    expect(page.locator("tbody tr")).to_have_count(20)
    page.get_by_role("button", name="Show more").click()
    expect(page.locator("tbody tr")).to_have_count(23)
    expect(page.get_by_role("button", name="Show more")).not_to_be_visible()


def test_names_with_markup_stay_names(mover: Visitor, keep: Keep) -> None:
    name = "<img src=x onerror=alert(1)>"
    page = mover.go(f"/move/{keep('parity-g.jsonl', lines_of(report(model=name)))}")
    expect(page.locator("#main")).to_contain_text(name)
    assert page.locator("#main img").count() == 0


def test_another_projects_report_cannot_be_read(visitor: Visitor, stand: Stand, keep: Keep) -> None:
    file_id = keep("parity-h.jsonl", lines_of(report()))
    visitor.sign_in(stand.new_project("curious")[1])
    page = visitor.go(f"/move/{file_id}")
    expect(page.get_by_role("alert")).to_contain_text("This page could not be shown")


def test_the_report_speaks_japanese(mover: Visitor, keep: Keep) -> None:
    page = mover.go(f"/move/{keep('parity-i.jsonl', lines_of(report(new=0.2)))}")
    page.locator(".side select[name=language]").select_option("ja")
    expect(page.locator("#main .note").first).to_contain_text("切り替えないでください")
    expect(page.locator("#main .note").first).to_contain_text("許容差 5 ポイント")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_everyone_can_use_the_pages_on_a_desk_and_on_a_phone(
    browser: Browser, stand: Stand, key: str, keep: Keep, scheme: str
) -> None:
    shown = [f"/move/{keep('parity-j.jsonl', lines_of(report(new=share)))}" for share in (1.0, 0.8, 0.2)]
    for visitor in visit(browser, stand.url, color_scheme=scheme):
        visitor.sign_in(key)
        found = []
        for width in (1280, 375):
            visitor.page.set_viewport_size({"width": width, "height": 800})
            for path in ("/move", *shown):
                page = visitor.go(path)
                page.wait_for_timeout(300)  # colours have a transition
                found += [f"{path}: {item}" for item in violations(page)]
                assert page.evaluate("document.documentElement.scrollWidth") <= width, path
        assert not found, "\n".join(found)
