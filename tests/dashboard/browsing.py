"""A page in Chromium that remembers what went wrong in it."""

import shutil
import subprocess
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from playwright.sync_api import Browser, BrowserContext, Page, Playwright, Request, expect

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
NAMES = ("chromium", "chromium-browser", "google-chrome")
PATIENCE_MS = 90_000
# NiceGUI draws a chart one turn of the loop after it is in the page. One that a newer report replaces within that turn
# has nothing to dispose of; nobody sees the error.
OF_THE_FRAMEWORK = "Cannot read properties of undefined (reading 'dispose')"


def find_chromium() -> str | None:
    return next((path for name in NAMES if (path := shutil.which(name))), None)


def find_japanese_font() -> bool:
    if shutil.which("fc-list") is None:
        return False
    listed = subprocess.run(["fc-list", ":lang=ja"], capture_output=True, text=True, check=False)
    return bool(listed.stdout.strip())


def launch(playwright: Playwright, executable: str) -> Browser:
    expect.set_options(timeout=PATIENCE_MS)
    return playwright.chromium.launch(executable_path=executable, args=list(FLAGS))


@dataclass
class Visitor:
    """A browser with cookies of its own."""

    url: str
    context: BrowserContext
    page: Page = field(init=False)
    errors: list[str] = field(default_factory=list)
    strangers: list[str] = field(default_factory=list)  # requests that left the server under test

    def __post_init__(self) -> None:
        self.context.set_default_timeout(PATIENCE_MS)
        self.page = self.open_tab()

    def open_tab(self) -> Page:
        page = self.context.new_page()
        page.on("console", lambda message: self._note(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: self._note(str(error)))
        page.on("request", self._watch)
        return page

    def _note(self, error: str) -> None:
        if OF_THE_FRAMEWORK not in error:
            self.errors.append(error)

    def _watch(self, request: Request) -> None:
        address = urlsplit(request.url)
        if address.scheme not in ("data", "blob") and address.netloc != urlsplit(self.url).netloc:
            self.strangers.append(request.url)

    def go(self, path: str) -> Page:
        self.page.goto(f"{self.url}/dashboard{path}")
        self.page.wait_for_function("window.did_handshake === true")
        return self.page

    def sign_in(self, key: str) -> None:
        """As the form does; no page is open yet."""
        form, headers = {"key": key}, {"origin": self.url}
        answer = self.context.request.post(f"{self.url}/dashboard/session", form=form, headers=headers, max_redirects=0)
        assert answer.headers["location"] == "/dashboard/", answer.headers["location"]
