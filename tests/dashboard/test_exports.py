"""A job's page takes its model elsewhere: the four forms, how far one is, and its file. Adapters from elsewhere come in
on a page of their own, which lists both."""

import os
import time
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect
from sqlalchemy import update

from tests.dashboard.browsing import Visitor
from tests.dashboard.conftest import visit
from tests.dashboard.latin import sentences
from tests.dashboard.rows import finished_job, insert_jobs, insert_model, organization_and_project
from tests.dashboard.stand import Stand
from tests.dashboard.test_stored import check_page
from tunery.domain.files import File, FilePurpose
from tunery.store import files, tables
from tunery.store.blobs import Blobs
from tunery.store.database import write
from tunery.texts import reference, say, translator, with_texts

PICTURES = os.environ.get("PICTURES_TO")
PROOF = {"num_same_tokens": 1_411, "num_tokens": 1_412, "program": "llama.cpp (xllamacpp 1)", "agrees": True}


def become(stand: Stand, **values: object) -> None:
    with write(stand.database) as conn:
        conn.execute(update(tables.transfers).where(tables.transfers.c.status != "succeeded").values(**values))


@pytest.mark.parametrize("locale", ["en-US", "ja-JP"])
def test_a_model_is_exported_and_downloaded(browser: Browser, stand: Stand, locale: str) -> None:
    project, key = stand.new_project(f"exports {locale}")
    organization, _ = organization_and_project(stand.database)
    job = finished_job(project, organization, suffix="mine")
    insert_jobs(stand.database, [job])
    insert_model(stand.database, job)
    for visitor in visit(browser, stand.url, locale=locale):
        _export(visitor, stand, job.id, project, key, is_english=locale == "en-US")


def _export(visitor: Visitor, stand: Stand, job_id: str, project: str, key: str, *, is_english: bool) -> None:
    def picture(name: str) -> None:
        if PICTURES:
            page.wait_for_timeout(900)
            page.screenshot(path=Path(PICTURES) / f"{name}-{'en' if is_english else 'ja'}.png", full_page=True)

    visitor.sign_in(key)
    page = visitor.go(f"/jobs/{job_id}")
    button = page.locator(".heading .btn", has_text="Export" if is_english else "書き出す")
    button.click()
    dialog = page.locator(".dialog")
    expect(dialog.get_by_role("radio")).to_have_count(4)
    check_page(page, 1280)
    dialog.get_by_role("radio", name="GGUF").first.click()
    kind = "Numbers" if is_english else "数値の型"
    expect(dialog.get_by_label(kind)).to_be_visible()
    picture("dialog")
    if not is_english:
        assert [each for each in sentences(page) if "SPAN: ·" not in each] == []  # reasons of the row, not of the page
    dialog.locator(".btn-primary").click()
    row = page.get_by_role("region", name="Exports" if is_english else "書き出し").locator("tbody tr")
    expect(row).to_have_count(1)
    expect(row).to_contain_text("Queued" if is_english else "待機")
    become(stand, status="running", progress={"doing": "writing", "done": 50_000_000, "total": 200_000_000})
    expect(row).to_contain_text("Writing" if is_english else "書き込み中")
    picture("running")
    file = File(
        "file-export" + job_id[-8:], project, int(time.time()), "mine-gguf.tar", FilePurpose.USER_DATA, 3, "", "x/y"
    )
    Blobs.open(stand.settings).put(file.blob, b"tar")
    with write(stand.database) as conn:
        files.insert_file(conn, file)
    become(stand, status="succeeded", progress=None, file_id=file.id, result=PROOF, finished_at=int(time.time()))
    expect(row).to_contain_text("1,411")
    with page.expect_download() as download:
        row.get_by_role("link").click()
    assert download.value.suggested_filename == "mine-gguf.tar"
    picture("done")
    check_page(page, 1280)


@pytest.mark.parametrize("locale", ["en-US", "ja-JP"])
def test_an_adapter_is_imported_and_said_how_it_went(browser: Browser, stand: Stand, locale: str) -> None:
    _, key = stand.new_project(f"imports {locale}")
    for visitor in visit(browser, stand.url, locale=locale):
        _import(visitor, stand, key, is_english=locale == "en-US")


def _import(visitor: Visitor, stand: Stand, key: str, *, is_english: bool) -> None:
    visitor.sign_in(key)
    page = visitor.go("/weights")
    begin = page.locator(".btn-primary", has_text="Import" if is_english else "取り込む")
    begin.click()
    expect(page.get_by_text("Drop the adapter first" if is_english else "先にアダプターを")).to_be_visible()
    for name in ("wrong.txt", "mine.tar"):
        page.locator("input[type=file]").set_input_files({"name": name, "mimeType": "x/y", "buffer": b"tar"})
        expect(page.get_by_role("button", name=name)).to_be_visible()
    page.get_by_role("button", name="wrong.txt").click()
    expect(page.get_by_role("button", name="wrong.txt")).to_have_count(0)
    page.get_by_label("Suffix" if is_english else "サフィックス").fill("mine")
    if not is_english:
        assert sentences(page) == []
    check_page(page, 1280)
    begin.click()
    row = page.get_by_role("region", name="Imports" if is_english else "取り込み").locator("tbody tr")
    expect(row).to_have_count(1)
    expect(row).to_contain_text("Queued" if is_english else "待機")
    expect(page.get_by_role("button", name="mine.tar")).to_have_count(0)
    client = stand.client(key)
    made = client.get("/../tunery/v1/imports", cast_to=object)["data"][0]  # type: ignore[index]
    assert [client.files.retrieve(each).filename for each in made["files"]] == ["mine.tar"]
    become(stand, status="running", progress={"doing": "checking", "done": 0, "total": None})
    expect(row).to_contain_text("Checking" if is_english else "検査中")
    told = say("error.import_nothing")
    error = {"code": "import_refused", "message": told, "texts": {"message": reference(told)}}
    become(stand, status="failed", progress=None, error=error)
    expect(row).to_contain_text(translator("en" if is_english else "ja")("error.import_nothing"))
    warning = say("warning.import_base", named="x/y", base="smollm2", source="pypi:z")
    become(
        stand, status="succeeded", error=None, model="ft:b:o:mine:AbCd1234", result=with_texts({"warnings": [warning]})
    )
    page.reload()
    expect(row).to_contain_text("ft:b:o:mine:AbCd1234")
    expect(row).to_contain_text(warning if is_english else translator("ja").reword("", reference(warning)))
    if PICTURES:
        page.wait_for_timeout(900)
        page.screenshot(path=Path(PICTURES) / f"weights-{'en' if is_english else 'ja'}.png", full_page=True)
    check_page(page, 1280)
    if not is_english:
        assert sentences(page) == []
