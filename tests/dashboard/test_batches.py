"""The pages of batches in a real browser: the list, one batch, and the dataset that is made of it."""

import json
import re
import time
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect
from sqlalchemy import update

from tests.api.test_batch_datasets import chat_pair
from tests.dashboard.browsing import Visitor
from tests.dashboard.conftest import visit
from tests.dashboard.latin import sentences
from tests.dashboard.rows import BASE
from tests.dashboard.stand import Stand
from tests.dashboard.test_pages import num_looks
from tests.dashboard.test_stored import MARKUP, WORD, check_page
from tests.rows import store_batch
from tunery.api.batches.lines import problem
from tunery.dashboard.batches.batch import why
from tunery.domain.batches import Batch, BatchStatus
from tunery.domain.tenants import Role
from tunery.store import tables
from tunery.store.blobs import Blobs
from tunery.store.database import write
from tunery.texts import reference, say, translator

FAILED = (chat_pair("Bad?", "")[0], "The temperature is too high.")
RUNNING = {"status": BatchStatus.IN_PROGRESS, "output_file_id": None, "error_file_id": None}


def keep(stand: Stand, project: str, *pairs: Any, **values: Any) -> Batch:
    defaults = {"created_at": int(time.time()) - 600, "model": BASE}
    with write(stand.database) as conn:
        return store_batch(conn, Blobs.open(stand.settings), project, pairs, **defaults | values)


def running(stand: Stand, project: str, num_completed: int, num_requests: int = 40) -> Batch:
    begun = int(time.time()) - 300
    numbers = {"num_completed": num_completed, "num_failed": 0, "num_requests": num_requests, "in_progress_at": begun}
    return keep(stand, project, chat_pair("One?", "1"), **RUNNING, **numbers)


def rows(page: Page) -> Any:
    return page.get_by_role("region", name="Batches").locator("tbody tr")


def test_an_empty_page_says_how_to_make_a_batch(visitor: Visitor, stand: Stand) -> None:
    visitor.sign_in(stand.new_project("no batches")[1])
    page = visitor.go("/")
    page.locator(".side").get_by_role("link", name="Batches").click()
    expect(page.locator(".empty")).to_contain_text("No batches yet")
    expect(page.locator("pre.code").first).to_contain_text("custom_id")
    expect(page.locator("pre.code:visible").last).to_contain_text("client.batches.create")
    page.get_by_role("tab", name="Shell").click()
    expect(page.locator("pre.code:visible").last).to_contain_text("tunery batches create")


def test_the_list_follows_a_batch_to_its_end_and_rests(visitor: Visitor, stand: Stand) -> None:
    project, key = stand.new_project("running batches")
    keep(stand, project, chat_pair("One?", "1"), FAILED, created_at=1_790_000_000)
    batch = running(stand, project, 10)
    visitor.sign_in(key)
    page = visitor.go("/batches")
    expect(rows(page)).to_have_count(2)
    first = rows(page).first
    expect(first).to_contain_text("In progress")
    expect(first).to_contain_text("25 %")
    expect(first).to_contain_text(re.compile(r"about \d+ min.* left"))
    expect(first).to_contain_text(BASE)
    expect(first).to_contain_text("smollm2-135m-instruct")  # what stands under the name
    expect(rows(page).last).to_contain_text("1 failed")
    with write(stand.database) as conn:
        conn.execute(update(tables.batches).where(tables.batches.c.id == batch.id).values(status=BatchStatus.EXPIRED))
    expect(first).to_contain_text("Expired")
    page.wait_for_timeout(5_000)
    rested = num_looks(stand, '"/v1/batches"')
    page.wait_for_timeout(5_000)
    assert num_looks(stand, '"/v1/batches"') == rested


def test_more_than_a_page(visitor: Visitor, stand: Stand) -> None:
    project, key = stand.new_project("many batches")
    for number in range(53):
        keep(stand, project, chat_pair("One?", "1"), created_at=1_790_000_000 + number)
    visitor.sign_in(key)
    page = visitor.go("/batches")
    expect(rows(page)).to_have_count(50)
    page.get_by_role("button", name="Show more").click()
    expect(rows(page)).to_have_count(53)
    expect(page.get_by_role("button", name="Show more")).to_be_hidden()


def test_a_batch_becomes_a_dataset_and_a_job_is_next(visitor: Visitor, stand: Stand) -> None:
    project, key = stand.new_project("batch distilled")
    good = [chat_pair(f"Question {n}?", f"Answer {n}.") for n in range(12)]
    batch = keep(stand, project, *good, FAILED, chat_pair("Long?", "L", "length"), input_tokens=1_234, output_tokens=56)
    visitor.sign_in(key)
    visitor.go("/batches")
    page = visitor.page
    rows(page).get_by_role("link", name=batch.id).click()
    page.wait_for_url(f"**/batches/{batch.id}")
    expect(page.locator(".tiles")).to_contain_text("of 14")
    expect(page.locator(".tiles")).to_contain_text("1,234 + 56")
    failed = page.get_by_role("region", name="Failed requests").locator("tbody tr")
    expect(failed).to_have_count(1)
    expect(failed).to_contain_text("request-12")
    expect(failed).to_contain_text("400 · The temperature is too high.")
    expect(page.get_by_role("button", name="Cancel")).to_be_hidden()
    for name, file_id in (("Answers", batch.output_file_id), ("Failed requests", batch.error_file_id)):
        link = page.locator(".heading").get_by_role("link", name=name)
        expect(link).to_have_attribute("href", f"/dashboard/download/{file_id}")
    page.get_by_role("button", name="Make a dataset of it").click()
    note = page.locator(".note.good")
    expect(note).to_contain_text("has 12 rows.")
    expect(note).to_contain_text("2 left out")
    expect(note).to_contain_text("failed (1)")
    expect(note).to_contain_text("the answer was cut off (1)")
    note.get_by_role("link", name="Create job").click()
    page.wait_for_url("**/jobs/new?file=file-*")
    expect(page.locator(".q-field", has=page.get_by_role("combobox", name="Training file"))).to_contain_text(batch.id)
    client = stand.client(key)
    (file,) = client.files.list(purpose="fine-tune").data
    made = [json.loads(line) for line in client.files.content(file.id).text.splitlines()]
    assert [row["messages"][1]["content"] for row in made] == [f"Answer {n}." for n in range(12)]


def test_a_batch_is_cancelled_after_a_question(visitor: Visitor, stand: Stand) -> None:
    project, key = stand.new_project("batch cancelled")
    batch = running(stand, project, 1)
    visitor.sign_in(key)
    page = visitor.go(f"/batches/{batch.id}")
    expect(page.get_by_role("button", name="Make a dataset")).to_be_hidden()
    page.get_by_role("button", name="Cancel").click()
    page.locator(".dialog").get_by_role("button", name="Cancel").click()
    expect(page.locator(".heading .chip")).to_have_text("Cancelling")
    assert stand.client(key).batches.retrieve(batch.id).status == "cancelling"


def test_what_is_wrong_with_a_file_is_told_by_line(visitor: Visitor, stand: Stand) -> None:
    project, key = stand.new_project("bad batch")
    errors = [{"code": "x", "message": f"{MARKUP} is no url.", "param": "url", "line": 1_234}]
    errors.append({"code": "x", "message": "It is empty.", "param": None, "line": None})
    errors.append({**problem("x", say("error.batch_empty")), "message": "An older sentence."})
    batch = keep(stand, project, FAILED, status=BatchStatus.FAILED, errors=errors, error_file_id=None)
    visitor.sign_in(key)
    page = visitor.go(f"/batches/{batch.id}")
    expect(page.locator(".problems li")).to_have_text(
        [f"Line 1,234: {MARKUP} is no url.", "It is empty.", say("error.batch_empty")]
    )


def test_embeddings_and_readers_make_no_dataset(visitor: Visitor, stand: Stand) -> None:
    project, key = stand.new_project("batch reader", Role.READER)
    embedded = keep(stand, project, chat_pair("One?", "1"), endpoint="/v1/embeddings")
    batch = keep(stand, project, chat_pair("One?", "1"))
    visitor.sign_in(key)
    page = visitor.go(f"/batches/{embedded.id}")
    expect(page.locator(".tiles")).to_be_visible()
    expect(page.get_by_role("button", name="Make a dataset")).to_be_hidden()
    visitor.go(f"/batches/{batch.id}")
    page.get_by_role("button", name="Make a dataset").click()
    expect(page.locator(".q-notification")).to_contain_text("Your key may not do this")
    visitor.page.goto(f"{stand.url}/dashboard/batches/batch_none")
    expect(page.locator("#main")).to_contain_text("batch_none")


@pytest.mark.parametrize("ended", ["cancelled", "expired", "failed"])
def test_why_a_request_failed_is_said_in_the_readers_language(ended: str) -> None:
    message, faulty = say(f"error.batch_ended.{ended}"), say("error.batch_custom_id", most=512)
    line = {"error": {"code": f"batch_{ended}", "message": message}, "text": reference(message)}
    refused = {"response": {"status_code": 400, "body": {"error": {"message": faulty}}}, "text": reference(faulty)}
    for language in ("en", "ja"):
        t = translator(language)
        assert why(line, t) == f"batch_{ended} · {t(message.key)}"
        assert why(refused, t) == f"400 · {t(faulty.key, most=512)}"
    assert why({"error": {"message": "Of an older server."}}, translator("ja")) == "Of an older server."


def ugly(stand: Stand, project: str) -> Batch:
    """Many failures with markup and enormous words."""
    pairs = [chat_pair("One?", "1"), *((FAILED[0], f"{MARKUP} {WORD}") for _ in range(60))]
    for status in BatchStatus:
        keep(stand, project, *pairs[:2], status=status, model=None)
    return keep(
        stand, project, *pairs, model="ft:" + "m" * 60 + ":" + "o" * 40 + ":s:abcdefgh", metadata={"k": WORD[:512]}
    )


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_ugly_batches_stay_within_the_page_in_both_languages(browser: Browser, stand: Stand, scheme: str) -> None:
    project, key = stand.new_project(f"ugly {scheme}")
    batch = ugly(stand, project)
    locale = {"light": "en-US", "dark": "ja-JP"}[scheme]
    for visitor in visit(browser, stand.url, color_scheme=scheme, locale=locale):
        visitor.sign_in(key)
        for width in (1280, 375):
            visitor.page.set_viewport_size({"width": width, "height": 800})
            page = visitor.go("/batches")
            expect(page.locator("tbody tr")).to_have_count(9)
            check_page(page, width)
            found = sentences(page)
            visitor.go(f"/batches/{batch.id}")
            expect(page.locator("tbody tr")).to_have_count(50)
            check_page(page, width)
            found += sentences(page)
            page.get_by_role("button", name="データセットを作成" if locale == "ja-JP" else "Make a dataset").click()
            expect(page.locator(".note.good")).to_be_visible()
            check_page(page, width)
            found += sentences(page)
            if locale == "ja-JP":
                assert found == []
