"""A job's page takes its model elsewhere: the four forms, how far one is, and its file."""

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
