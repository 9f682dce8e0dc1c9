"""The plain HTTP side: what other sites may not do, and what comes down."""

import base64
from collections.abc import Iterator

import httpx
import pytest

from tests.dashboard.stand import Stand
from tunery.dashboard.result_file import as_plain_csv
from tunery.dashboard.sessions import COOKIE


@pytest.fixture
def browser_like(stand: Stand) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=stand.url, headers={"origin": stand.url}) as client:
        answer = client.post("/dashboard/session", data={"key": stand.key, "next": "/dashboard/keys"})
        assert (answer.status_code, answer.headers["location"]) == (303, "/dashboard/keys")
        yield client


def test_a_form_of_another_site_does_nothing(browser_like: httpx.Client) -> None:
    stranger = {"origin": "https://elsewhere.example"}
    browser_like.post("/dashboard/sign-out", headers=stranger)
    browser_like.post("/dashboard/preferences", data={"theme": "dark"}, headers=stranger)
    assert browser_like.post("/dashboard/upload", content=b"{}", headers=stranger).status_code == 401
    page = browser_like.get("/dashboard/")
    assert page.status_code == 200
    assert "dataset.theme = matchMedia" in page.text  # still as the system


def test_another_site_cannot_sign_a_visitor_in(stand: Stand) -> None:
    answer = httpx.post(
        f"{stand.url}/dashboard/session", data={"key": stand.key}, headers={"origin": "https://elsewhere.example"}
    )
    assert COOKIE not in answer.cookies and "reason=origin" in answer.headers["location"]


def test_a_proxy_may_rename_the_host(stand: Stand) -> None:
    headers = {"origin": "https://tunery.example", "x-forwarded-host": "tunery.example", "x-forwarded-proto": "https"}
    answer = httpx.post(f"{stand.url}/dashboard/session", data={"key": stand.key}, headers=headers)
    cookie = answer.headers["set-cookie"]
    assert COOKIE in cookie and "HttpOnly" in cookie and "Secure" in cookie


@pytest.mark.parametrize("target", ["https://elsewhere.example/", "//elsewhere.example", "/v1/files", "/dashboard//x"])
def test_signing_in_leads_to_pages_of_the_dashboard_only(stand: Stand, target: str) -> None:
    answer = httpx.post(f"{stand.url}/dashboard/session", data={"key": stand.key, "next": target})
    assert answer.headers["location"] == "/dashboard/"


def test_the_example_dataset_is_one_click_away(browser_like: httpx.Client, stand: Stand) -> None:
    answer = browser_like.post("/dashboard/example")
    file_id = answer.headers["location"].removeprefix("/dashboard/jobs/new?file=")
    assert stand.client().files.retrieve(file_id).filename == "marv.jsonl"


def test_a_file_comes_down_as_it_went_up(browser_like: httpx.Client) -> None:
    content = b'{"messages": []}\n'
    headers = {"x-filename": "na%C3%AFve.jsonl"}
    stored = browser_like.post("/dashboard/upload?purpose=fine-tune", content=content, headers=headers).json()
    answer = browser_like.get(f"/dashboard/download/{stored['id']}")
    assert answer.content == content
    assert "na%C3%AFve.jsonl" in answer.headers["content-disposition"]


def test_without_a_session_nothing_comes_down(stand: Stand) -> None:
    answer = httpx.get(f"{stand.url}/dashboard/download/file-x")
    assert answer.status_code == 303 and "/sign-in" in answer.headers["location"]


def test_the_result_file_comes_down_as_plain_csv() -> None:
    plain = b"step,train_loss\n1,0.5\n"
    assert as_plain_csv(base64.b64encode(plain)) == plain
    assert as_plain_csv(plain) == plain
