"""Stored answers in a real browser: looked through, filtered, deleted, made a dataset of."""

import json
import re
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect
from sqlalchemy import Connection

from tests.dashboard.accessibility import violations
from tests.dashboard.browsing import Visitor
from tests.dashboard.conftest import visit
from tests.dashboard.latin import sentences
from tests.dashboard.rows import BASE
from tests.dashboard.stand import Stand
from tests.dashboard.test_pages import num_looks
from tests.rows import store_completion, store_response
from tunery.domain.tenants import Role
from tunery.store import tenants
from tunery.store.database import write
from tunery.wire.responses.items import message

AT = 1_790_000_000
DAY_S = 86_400
WORD = "x" * 3_000
MARKUP = '<img src=x onerror="document.title=1"><b>bold</b> </textarea>'
CALL = {"id": "call_1", "type": "function", "function": {"name": "find", "arguments": '{"city": "Rome"}'}}


def keep(stand: Stand, project: str, *answers: tuple[Any, ...], model: str = BASE, at: int = AT) -> list[str]:
    """Their ids; the first is the newest."""
    with write(stand.database) as conn:
        return [
            store(conn, project, question, answer, created_at=at - number, **{"model": model, **values})
            for number, (store, question, answer, values) in enumerate(answers)
        ]


def chat(question: Any, answer: Any, **values: Any) -> tuple[Any, ...]:
    return store_completion, question, answer, values


def response(question: Any, answer: Any, **values: Any) -> tuple[Any, ...]:
    return store_response, question, answer, values


def ugly(conn: Connection, project: str) -> str:
    """A response with a thousand items, markup and an enormous word; its id. Others of every end beside it."""
    items = [message("user", [{"type": "input_text", "text": f"item {n} {MARKUP}"}]) for n in range(1_000)]
    values = {"created_at": AT, "model": "ft:" + "m" * 60 + ":" + "o" * 40 + ":s:abcdefgh"}
    store_completion(conn, project, MARKUP, {"content": None, "tool_calls": [CALL]}, **values)
    store_completion(conn, project, WORD, WORD, metadata={"k" * 60: WORD[:500]}, **values)
    store_completion(conn, project, [], "to nothing", **values)
    store_completion(conn, project, "", "", **values)
    for status in ("failed", "incomplete", "cancelled", "in_progress"):
        error = {"error": {"message": MARKUP + WORD[:300]}} if status == "failed" else {}
        store_response(conn, project, "?", None, status=status, body=error, **values)
    return store_response(conn, project, items, f"{MARKUP} {WORD}", **values)


@pytest.fixture(scope="module")
def ugly_project(stand: Stand) -> tuple[str, str]:
    """A key, and the id of the longest answer."""
    project, key = stand.new_project("ugly answers")
    with write(stand.database) as conn:
        return key, ugly(conn, project)


def rows(page: Page) -> Any:
    return page.get_by_role("region", name="Stored answers").locator("tbody tr")


def test_an_empty_page_says_how_to_store_through_both_apis(visitor: Visitor, stand: Stand) -> None:
    visitor.sign_in(stand.new_project("nothing stored")[1])
    page = visitor.go("/stored")
    expect(page.locator(".empty")).to_contain_text("store=True")
    code = page.locator("pre.code:visible")
    expect(code).to_contain_text("chat.completions.create")
    expect(code).to_contain_text("store=True")
    page.get_by_role("tab", name="Responses").click()
    expect(code).to_contain_text("responses.create")
    page.get_by_role("tab", name="Node").last.click()
    expect(code).to_contain_text('"store": true')


def test_the_list_is_counted_filtered_and_paged_by_the_server(visitor: Visitor, stand: Stand) -> None:
    project, key = stand.new_project("many stored")
    keep(stand, project, *(chat(f"Question {n}", "Answer", metadata={"team": str(n % 2)}) for n in range(30)))
    keep(stand, project, *(response(f"Older {n}", "Answer") for n in range(3)), model="other", at=AT - 2 * DAY_S)
    visitor.sign_in(key)
    page = visitor.go("/stored")
    expect(rows(page)).to_have_count(25)
    by_model = page.get_by_role("region", name="Answers by model").locator("tbody tr")
    expect(by_model).to_have_text([re.compile(rf"{BASE}.*30"), re.compile("other.*3")])
    page.get_by_role("button", name="Show more").click()
    expect(rows(page)).to_have_count(33)
    expect(page.get_by_role("button", name="Show more")).to_be_hidden()
    page.get_by_role("combobox", name="API").click()
    page.get_by_role("option", name="Responses").click()
    expect(rows(page)).to_have_count(3)
    page.get_by_label("Search in the text").fill("oLDER 2")
    expect(rows(page)).to_have_count(1)
    page.reload()  # what is chosen stands in the address
    page.wait_for_function("window.did_handshake === true")
    expect(rows(page)).to_have_count(1)
    visitor.go("/stored")
    page.get_by_label("Metadata key").fill("team")
    page.get_by_label("Metadata value").fill("1")
    expect(rows(page)).to_have_count(15)
    page.get_by_label("Metadata value").fill("3")
    expect(page.get_by_text("No answer matches.")).to_be_visible()
    expect(page.get_by_role("button", name="Make a dataset")).to_be_disabled()
    visitor.go("/stored?since=2026-09-19&until=2026-09-19")
    expect(rows(page)).to_have_count(3)


def test_quick_changes_are_asked_for_once_a_second(visitor: Visitor, stand: Stand) -> None:
    project, key = stand.new_project("quick")
    keep(stand, project, chat("Question", "Answer"))
    visitor.sign_in(key)
    page = visitor.go("/stored")
    expect(rows(page)).to_have_count(1)
    path = '"/tunery/v1/stored_answers"'
    before = num_looks(stand, path)
    begun = page.evaluate("performance.now()")
    for text in ("n", "no", "not", "noth", "nothing"):
        page.get_by_label("Search in the text").fill(text)
        page.wait_for_timeout(400)  # longer than the field waits itself
    expect(page.get_by_text("No answer matches.")).to_be_visible()
    seconds = (page.evaluate("performance.now()") - begun) / 1000
    assert 1 <= num_looks(stand, path) - before <= 2 + seconds
    page.wait_for_timeout(3_000)
    rested = num_looks(stand, path)
    page.wait_for_timeout(3_000)
    assert num_looks(stand, path) == rested  # nothing is asked when nothing is changed


def test_an_answer_is_seen_in_full_and_deleted(visitor: Visitor, stand: Stand) -> None:
    project, key = stand.new_project("in full")
    request = {"tools": [{"type": "function", "function": {"name": "find", "parameters": {"type": "object"}}}]}
    first = ("How cold is it?", {"content": None, "tool_calls": [CALL]})
    (called,) = keep(stand, project, chat(*first, request=request, metadata={"team": "a"}))
    (failed,) = keep(stand, project, response("Why?", None, status="failed", body={"error": {"message": "It broke."}}))
    visitor.sign_in(key)
    page = visitor.go(f"/stored/{called}")
    expect(page.locator("#main")).to_contain_text('find({"city": "Rome"})')
    for text in ("How cold is it?", "7 prompt tokens (2 cached), 5 in the answer", "$0.00", "team: a", "smollm2-135m"):
        expect(page.locator("#main")).to_contain_text(text)
    with page.expect_download() as download:
        page.get_by_role("button", name="Download").click()
    assert json.loads(download.value.path().read_text())["answer"]["tool_calls"] == [CALL]
    visitor.go(f"/stored/{failed}")
    expect(page.get_by_role("alert")).to_contain_text("It broke.")
    for api, answer_id in (("chat", called), ("responses", failed)):
        visitor.go(f"/stored?api={api}")
        expect(rows(page)).to_have_count(1)
        page.get_by_role("button", name="Delete").click()
        page.locator(".dialog").get_by_role("button", name="Delete").click()
        expect(page.get_by_text("No answer matches.")).to_be_visible()
        visitor.page.goto(f"{stand.url}/dashboard/stored/{answer_id}")
        expect(page.locator("#main")).to_contain_text("not found")


def test_a_reader_looks_and_changes_nothing(visitor: Visitor, stand: Stand) -> None:
    project, key = stand.new_project("read only", Role.READER)
    keep(stand, project, chat("Question", "Answer"))
    visitor.sign_in(key)
    page = visitor.go("/stored")
    expect(rows(page)).to_have_count(1)
    page.get_by_role("button", name="Delete").click()
    page.locator(".dialog").get_by_role("button", name="Delete").click()
    expect(page.locator(".q-notification")).to_contain_text("Your key may not do this")
    page.get_by_role("button", name="Make a dataset").click()
    page.wait_for_url("**/stored/dataset")
    page.get_by_role("button", name="Save and create job").click()
    expect(page.locator(".q-notification").last).to_contain_text("Your key may not do this")
    with write(stand.database) as conn:
        assert tenants.get_active_project(conn, project)
    assert visitor.go("/stored") and rows(page).count() == 1


def test_signing_out_ends_the_page(visitor: Visitor, stand: Stand) -> None:
    project, key = stand.new_project("signed out")
    keep(stand, project, chat("Question", "Answer"))
    visitor.sign_in(key)
    page, other = visitor.go("/stored"), visitor.open_tab()
    other.goto(f"{stand.url}/dashboard/stored")
    other.wait_for_function("window.did_handshake === true")
    page.locator(".side").get_by_role("button", name="Sign out").click()
    expect(other.locator("h1")).to_have_text("Sign in")


def test_answers_become_a_dataset_and_a_job_is_next(visitor: Visitor, stand: Stand) -> None:
    project, key = stand.new_project("distilled")
    client = stand.client(key)
    good = [make(f"Question {n}?", f"Answer {n}.") for n in range(6) for make in (chat, response)]
    call = chat("Weather?", {"content": None, "tool_calls": [CALL]})
    cut = response("Long?", "Lo", status="incomplete")
    keep(stand, project, call, cut, *good)
    visitor.sign_in(key)
    page = visitor.go("/stored")
    page.get_by_role("button", name="Make a dataset of these").click()
    page.wait_for_url("**/stored/dataset")
    report = page.locator(".report")
    expect(report).to_contain_text("13 examples in 13 lines")
    expect(report).to_contain_text("the answer was cut off")
    editors = page.locator(".example")
    expect(editors).to_have_count(10)
    editors.nth(0).get_by_label("Arguments of find").fill('{"city": "Paris"}')
    editors.nth(1).get_by_label("Answer as it should be").fill("Long and whole.")
    editors.nth(2).get_by_role("checkbox", name="Use this answer").click()
    expect(report).to_contain_text("left out by you")
    expect(report).not_to_contain_text("the answer was cut off")
    expect(report).to_contain_text("13 examples in 13 lines")
    expect(report).to_contain_text("$")
    page.reload()
    page.wait_for_function("window.did_handshake === true")
    expect(editors.nth(1).get_by_label("Answer as it should be")).to_have_value("Long and whole.")
    expect(report).to_contain_text("left out by you")
    page.get_by_label("Name of the new dataset").fill("weather.jsonl")
    page.get_by_role("button", name="Save and create job").click()
    page.wait_for_url("**/jobs/new?file=file-*")
    (file,) = client.files.list().data
    expect(page.locator(".q-field", has=page.get_by_role("combobox", name="Training file"))).to_contain_text(
        "weather.jsonl"
    )
    made = [json.loads(line) for line in client.files.content(file.id).text.splitlines()]
    answers = {row["messages"][0]["content"]: row["messages"][-1] for row in made}
    assert len(made) == 13 and answers["Long?"]["content"] == "Long and whole."
    assert answers["Weather?"]["tool_calls"][0]["function"] == {"name": "find", "arguments": '{"city": "Paris"}'}
    assert (file.purpose, file.filename) == ("fine-tune", "weather.jsonl")


def test_ticked_ones_alone_and_none_that_can_be_used(visitor: Visitor, stand: Stand) -> None:
    project, key = stand.new_project("ticked")
    keep(stand, project, *(chat(f"Question {n}", "") for n in range(4)))
    visitor.sign_in(key)
    page = visitor.go("/stored")
    for row in (0, 2):
        rows(page).nth(row).get_by_role("checkbox").click()
    page.get_by_role("button", name="Make a dataset of 2 ticked").click()
    page.wait_for_url("**/stored/dataset")
    expect(page.locator(".example")).to_have_count(2)
    expect(page.locator(".report")).to_contain_text("None of these answers can be a row")
    expect(page.get_by_role("button", name="Save and create job")).to_be_disabled()
    page.locator(".example").nth(0).get_by_label("Answer as it should be").fill("There is one.")
    expect(page.get_by_role("button", name="Save and create job")).to_be_enabled()
    assert stand.client(key).files.list().data == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_ugly_answers_stay_within_the_page(
    browser: Browser, stand: Stand, ugly_project: tuple[str, str], scheme: str
) -> None:
    key, longest = ugly_project
    for visitor in visit(browser, stand.url, color_scheme=scheme):
        visitor.sign_in(key)
        for width in (1280, 375):
            visitor.page.set_viewport_size({"width": width, "height": 800})
            page = visitor.go("/stored")
            expect(rows(page)).to_have_count(9)
            check_page(page, width)
            rows(page).first.get_by_role("checkbox").click()
            page.get_by_role("button", name="Make a dataset").click()
            page.wait_for_url("**/stored/dataset")
            expect(page.locator(".report .tiles")).to_be_visible()
            check_page(page, width)
            visitor.go(f"/stored/{longest}")
            expect(page.locator(".message")).to_have_count(101)
            check_page(page, width)
            page.get_by_role("button", name="Show more (900)").click()
            expect(page.locator(".message")).to_have_count(201)


def check_page(page: Page, width: int) -> None:
    assert page.evaluate("document.documentElement.scrollWidth") <= width, page.url
    assert page.locator("#main img[src=x]").count() == 0
    assert violations(page) == []


def test_the_pages_speak_japanese(browser: Browser, stand: Stand, ugly_project: tuple[str, str]) -> None:
    project, key = stand.new_project("japanese answers")
    statuses = ("incomplete", "failed", "cancelled", "queued", "in_progress")
    unfit = [response("質問", None, status=status) for status in statuses]
    (fit, *_) = keep(
        stand, project, chat("質問", "答え"), response("質問", "", previous_response_id="resp_gone"), *unfit
    )
    for visitor in visit(browser, stand.url, locale="ja-JP"):
        visitor.sign_in(key)
        page = visitor.go("/stored")
        expect(page.get_by_role("checkbox")).to_have_count(7)
        found = sentences(page)
        page.locator(".heading").get_by_role("button").click()
        page.wait_for_url("**/stored/dataset")
        expect(page.locator(".report .tiles")).to_be_visible()
        found += sentences(page)
        found += sentences(visitor.go(f"/stored/{fit}"))
        assert found == []
