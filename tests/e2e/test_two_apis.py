"""Two apis behind a load balancer, which share a Postgres and no more: one is killed under a visitor's open page."""

import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Browser, Page, expect

from tests.e2e.balancer import Balancer
from tests.fixtures_services import SECRETS_KEY, free_port
from tests.servers import Server
from tunery.dashboard.sessions import COOKIE
from tunery.texts import translator

KEY = "sk-of-two-apis"
TYPED = "What only I have typed"
pytestmark = pytest.mark.e2e


@pytest.fixture
def apis(home: Path, postgres_url: str, tiny_settings: dict[str, str]) -> Iterator[list[Server]]:
    shared = {
        **tiny_settings,
        "TUNERY_HOME": str(home),
        "TUNERY_DATABASE_URL": postgres_url,
        "TUNERY_SECRETS_KEY": SECRETS_KEY,
        "TUNERY_API_KEY": KEY,
    }
    with ExitStack() as stack:
        started: list[Server] = []
        for port in (free_port(), free_port()):
            command = [sys.executable, "-m", "tunery.launch.web"]
            started.append(Server(command, port, {**shared, "TUNERY_PORT": str(port)}, home / f"api-{port}.log"))
            stack.callback(started[-1].kill)
        for api in started:
            api.wait()
        yield started


def test_visitor_keeps_page_and_typed_text_when_the_api_behind_it_is_killed(
    apis: list[Server], browser: Browser
) -> None:
    first, second = (httpx.Client(base_url=api.url, timeout=60) for api in apis)
    with first, second, Balancer([api.url for api in apis], is_loyal=True) as loyal:
        page = open_page(browser, loyal.url, first)
        second.cookies = first.cookies
        second.post("/dashboard/preferences", data={"language": "ja"})
        assert all('<html lang="ja"' in visitor.get("/dashboard/keys").text for visitor in (first, second))
        apis[0].kill()
        expect(page.locator("html")).to_have_attribute("lang", "ja")  # it was made anew, by the other api
        prompt = page.get_by_label(translator("ja")("playground.prompt"), exact=True)
        expect(prompt).to_have_value(TYPED)
        page.context.close()
        second.post("/dashboard/sign-out")
        assert second.get("/dashboard/keys").headers["location"].startswith("/dashboard/sign-in")


def open_page(browser: Browser, url: str, api: httpx.Client) -> Page:
    """The playground with something typed, of a visitor who signed in at `api`."""
    assert api.post("/dashboard/session", data={"key": KEY}).status_code == 303
    context = browser.new_context()
    context.add_cookies([{"name": COOKIE, "value": api.cookies[COOKIE], "url": url}])
    page = context.new_page()
    page.goto(f"{url}/dashboard/playground")
    page.wait_for_function("window.did_handshake === true")
    page.get_by_label("Your message").fill(TYPED)
    page.get_by_label("Your message").blur()
    return page
