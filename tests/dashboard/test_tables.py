"""A table in a real browser: dropped in, its columns chosen, looked at as conversations, saved, and on to a job."""

import io
import json
import re
from typing import Any

import pytest
from openpyxl import Workbook
from playwright.sync_api import Browser, Page, expect

from tests.dashboard.accessibility import violations
from tests.dashboard.browsing import Visitor
from tests.dashboard.conftest import visit
from tests.dashboard.stand import Stand

PLACE = re.compile(r"/datasets/table/file-")


def book() -> bytes:
    """Three sheets; the second has a title, a header in its third row, and rows that lack something."""
    made = Workbook()
    made.worksheets[0].title = "Cover"
    faq = made.create_sheet("FAQ")
    faq.append(["Support, May"])
    faq.append([])
    faq.append(["id", "kunde", "reply", "tone"])
    for number in range(30):
        faq.append([number, f"Where is parcel {number}, please?", f"Parcel {number} is on its way.", "Be kind."])
    faq.append([30, "Nobody answered this one?", None, "Be kind."])
    german = made.create_sheet("Deutsch")
    german.append(["Frage", "Antwort"])
    for number in range(12):
        german.append([f"Wo ist Paket {number}?", f"Paket {number} kommt."])
    content = io.BytesIO()
    made.save(content)
    return content.getvalue()


def drop(page: Page, name: str, content: bytes) -> None:
    page.locator(".drop input").set_input_files(
        {"name": name, "mimeType": "application/octet-stream", "buffer": content}
    )


def choose(page: Page, label: str, option: str) -> None:
    page.get_by_role("combobox", name=label, exact=True).click()
    page.get_by_role("option", name=re.compile(re.escape(option))).click()


def rows_of(stand: Stand, key: str, page: Page) -> list[dict[str, Any]]:
    file_id = page.url.rpartition("/")[2].rpartition("=")[2]
    return [json.loads(line) for line in stand.client(key).files.content(file_id).text.splitlines()]


def test_a_workbook_becomes_a_dataset_and_leads_on_to_a_job(visitor: Visitor, stand: Stand) -> None:
    _, key = stand.new_project("workbook")
    visitor.sign_in(key)
    page = visitor.go("/jobs/new")
    drop(page, "faq.xlsx", book())
    page.wait_for_url(PLACE)
    preview = page.locator("section.report")
    expect(preview).to_contain_text("Parcel 3 is on its way.")
    expect(preview).to_contain_text("of 31 rows")
    expect(page.get_by_role("combobox", name="Question", exact=True)).to_have_value(re.compile("kunde"))
    expect(preview.locator(".example", has_text="Row 31")).to_contain_text("the column ‘reply’ is empty.")
    assert not (found := violations(page)), found
    choose(page, "Instructions", "tone")
    expect(preview.locator(".message.system").first).to_have_text(re.compile("Be kind."))
    choose(page, "Sheet", "Deutsch")
    expect(preview).to_contain_text("Paket 3 kommt.")
    page.reload()  # what was chosen is still there
    expect(preview).to_contain_text("Paket 3 kommt.")
    page.wait_for_function("window.did_handshake === true")
    page.get_by_label("Instructions for every row").fill("Auf Deutsch.")
    expect(preview.locator(".message.system").first).to_contain_text("Auf Deutsch.")
    page.get_by_role("button", name="Save and create job").click()
    page.wait_for_url(re.compile(r"/jobs/new\?file="))
    expect(page.locator("section.report")).to_contain_text("12 examples")
    rows = rows_of(stand, key, page)
    assert len(rows) == 12
    assert [message["content"] for message in rows[3]["messages"]] == [
        "Auf Deutsch.",
        "Wo ist Paket 3?",
        "Paket 3 kommt.",
    ]


def test_a_shift_jis_table_by_keyboard_alone_in_japanese_on_a_dark_phone(browser: Browser, stand: Stand) -> None:
    _, key = stand.new_project("shift jis")
    for visitor in visit(browser, stand.url, locale="ja-JP", color_scheme="dark"):
        visitor.page.set_viewport_size({"width": 375, "height": 720})
        visitor.sign_in(key)
        page = visitor.go("/datasets")
        text = "質問,回答,備考\n" + "".join(f"荷物{n}はどこですか。,荷物{n}は配送中です。,なし\n" for n in range(12))
        drop(page, "よくある質問.csv", text.encode("cp932"))
        page.wait_for_url(PLACE)
        expect(page.locator("section.report")).to_contain_text("荷物3は配送中です。")
        expect(page.get_by_text("判別結果: Shift-JIS")).to_be_visible()
        assert page.evaluate("document.documentElement.scrollWidth") <= 375
        assert not (found := violations(page)), found
        save = page.get_by_role("button", name="保存", exact=True)
        for _ in range(60):
            page.keyboard.press("Tab")
            if save.evaluate("element => element === document.activeElement"):
                break
        page.keyboard.press("Enter")
        page.wait_for_url(re.compile(r"/datasets/file-[^/]+$"))
        assert rows_of(stand, key, page)[3]["messages"][1]["content"] == "荷物3は配送中です。"


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("locked.xlsx", b"\xd0\xcf\x11\xe0" + "EncryptedPackage".encode("utf-16-le"), "protected by a password"),
        ("a.csv", "q,a\nгде?,здесь, всегда здесь\n".encode("cp1251"), "encoding cannot be told"),
        ("a.csv", b"a,b,c\none two,three,four\n", "Choose the columns"),
    ],
)
def test_what_cannot_be_read_says_what_to_do(
    visitor: Visitor, stand: Stand, name: str, content: bytes, words: str
) -> None:
    visitor.sign_in(stand.key)
    page = visitor.go("/datasets")
    drop(page, name, content)
    page.wait_for_url(PLACE)
    expect(page.locator("section.report")).to_contain_text(words)
    expect(page.get_by_role("button", name="Save", exact=True)).to_be_disabled()
    visitor.errors.clear()  # the browser tells of the refused request
