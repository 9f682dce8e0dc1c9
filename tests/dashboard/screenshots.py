"""`python -m tests.dashboard.screenshots`: a picture of every page, light and dark, wide and narrow.

Starts a server of its own, trains the two example sets on the default base model, asks, compares, and looks at
everything. Pictures go to .cache/screenshots; with --readme four small ones a language go to docs/images as well. With
--home a server's home is kept and used again, so that a second run does not train.
"""

import argparse
import asyncio
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

from openai import OpenAI
from playwright.sync_api import Browser, Page, sync_playwright

from tests.dashboard.browsing import find_chromium, find_japanese_font, launch
from tests.dashboard.rows import BASE, every_state
from tests.dashboard.stand import Stand
from tests.loops import run
from tests.rows import store_completion, store_response
from tunery.dashboard.compare import running
from tunery.dashboard.comparison import Contestant, Plan
from tunery.dashboard.connection import Connection
from tunery.dashboard.models import playground_path
from tunery.dashboard.tuned.page import model_path
from tunery.domain.clock import system_clock
from tunery.migrate.capture import ModelAnswer, read_prompts, write_answers
from tunery.models.catalog import Catalog
from tunery.store.bootstrap import issue_key
from tunery.store.database import write

REPOSITORY = Path(__file__).parents[2]
PICTURES = REPOSITORY / ".cache" / "screenshots"
README_PICTURES = REPOSITORY / "docs" / "images"
SYSTEM = "Marv is a factual chatbot that is also sarcastic."
QUESTION = "How many legs does a spider have?"
SIZES = {"wide": {"width": 1280, "height": 860}, "narrow": {"width": 375, "height": 780}}
ON_PAPER = ("job", "comparison")
PAPER = {"width": 688, "height": 990}  # A4 between its margins
README_PAGES = {"create": "light", "job": "light", "playground": "dark", "comparison": "light"}
README_LANGUAGES = {"en-US": "", "ja": ".ja"}
README_SIZE = {"width": 1180, "height": 740}
LOOKS = [(theme, size, "en-US") for theme in ("light", "dark") for size in SIZES] + [("light", "wide", "ja")]
SETTLE_MS = 900  # charts and colours
LONG_MS = 600_000
OLD_MODEL = "ft:gpt-4o-mini-2024-07-18:acme:tickets:AbC12345"
OLD_MISTAKES = {3: "billing", 17: "bug", 41: "refund"}  # row -> what the old model said instead


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--home", type=Path, help="keep the server's home here")
    parser.add_argument("--readme", action="store_true", help="write docs/images as well")
    arguments = parser.parse_args()
    with TemporaryDirectory() as temporary:
        home = arguments.home or Path(temporary)
        home.mkdir(parents=True, exist_ok=True)
        take(home, with_readme=arguments.readme)


def take(home: Path, *, with_readme: bool) -> None:
    executable = find_chromium()
    if executable is None:
        raise SystemExit("No Chromium here: `sh scripts/install-debian.sh` installs it.")
    if not find_japanese_font():
        raise SystemExit("No Japanese font here, so its pictures would show boxes: apt-get install fonts-noto-cjk")
    cache = REPOSITORY / ".cache" / "models"
    stand = Stand(home, model_cache=cache)
    with write(stand.database) as conn:
        stand.key = stand.key or issue_key(conn, clock=system_clock, name="screenshots")
    try:
        stand.start_engine(Catalog.load().resolve(BASE).source)
        stand.start_web()
        prepare(stand)
        with sync_playwright() as playwright:
            browser = launch(playwright, executable)
            photograph(browser, stand, with_readme=with_readme)
            browser.close()
    finally:
        stand.stop_all()


def prepare(stand: Stand) -> None:
    """A model, and something of everything else, unless an earlier run has left it."""
    client = stand.client()
    done = {job.user_provided_suffix for job in client.fine_tuning.jobs.list(limit=100).data}  # type: ignore[attr-defined]
    if {"marv", "tickets"} <= done:
        return
    stand.start_worker()
    for suffix, path in (("marv", "marv.jsonl"), ("tickets", "tickets_train.jsonl")):
        if suffix not in done:
            train(client, stand.url, suffix, REPOSITORY / "examples" / path)
    jobs = client.fine_tuning.jobs.list(limit=100).data
    compare(stand, next(str(job.fine_tuned_model) for job in jobs if job.user_provided_suffix == "tickets"))  # type: ignore[attr-defined]
    stand.stop("worker")  # or it would take the rows below for jobs
    who = client.get(f"{stand.url}/tunery/v1/session", cast_to=dict)
    every_state(stand.database)
    admin = stand.admin_client().admin.organization
    for name in ("Support assistant", "Nightly evaluation"):
        admin.projects.service_accounts.create(who["project_id"], name=name)
    client.webhooks.create(
        name="Deploy", url="https://example.com/hooks/tunery", event_types=["fine_tuning.job.succeeded"]
    )


def train(client: OpenAI, url: str, suffix: str, path: Path) -> None:
    with path.open("rb") as file:
        stored = client.files.create(file=file, purpose="fine-tune")
    parts = client.post(f"{url}/tunery/v1/files/{stored.id}/split", body={"validation_share": 0.15}, cast_to=dict)
    job = client.fine_tuning.jobs.create(
        model=BASE,
        training_file=parts["training_file"],
        validation_file=parts["validation_file"],
        suffix=suffix,
        seed=1,
    )
    while job.status not in ("succeeded", "failed", "cancelled"):
        time.sleep(2)
        job = client.fine_tuning.jobs.retrieve(job.id)
    if job.status != "succeeded":
        raise SystemExit(f"The job has {job.status}: {job.error}")


def photograph(browser: Browser, stand: Stand, *, with_readme: bool) -> None:
    PICTURES.mkdir(parents=True, exist_ok=True)
    pages = addresses(stand)
    take_all(browser, stand, {"start": "/", "move-empty": "/move"}, key=stand.new_project("new")[1])
    pages |= {"comparison": comparison(stand), "move": "/move", "parity": prepare_report(stand)}
    take_all(browser, stand, pages)
    if with_readme:
        README_PICTURES.mkdir(parents=True, exist_ok=True)
        for locale, ending in README_LANGUAGES.items():
            for name, theme in README_PAGES.items():
                page = sign_in(browser, stand, theme, README_SIZE, locale=locale)
                open_page(page, stand, pages[name])
                if name == "playground":
                    ask(page)
                page.screenshot(path=README_PICTURES / f"{name}{ending}.png")
                page.context.close()


def take_all(browser: Browser, stand: Stand, pages: dict[str, str], *, key: str = "") -> None:
    """Light and dark, wide and narrow, and once in Japanese."""
    for theme, size, locale in LOOKS:
        suffix = f"{theme}-{size}" if locale == "en-US" else f"{locale}-{size}"

        def first(page: Page, name: str = f"sign-in-{suffix}") -> None:
            snap(page, name)

        page = sign_in(browser, stand, theme, SIZES[size], first, locale=locale, key=key)
        for name, path in pages.items():
            open_page(page, stand, path)
            if name == "playground":
                ask(page)
            snap(page, f"{name}-{suffix}")
            if name == "jobs":
                search(page)
                snap(page, f"search-{suffix}")
            if name in ON_PAPER and size == "wide":
                page.emulate_media(media="print")
                page.set_viewport_size(PAPER)
                snap(page, f"{name}-{suffix}-printed")
                page.emulate_media(media="screen")
                page.set_viewport_size(SIZES[size])
        page.context.close()


def addresses(stand: Stand) -> dict[str, str]:
    client = stand.client()
    jobs = client.fine_tuning.jobs.list(limit=100).data
    marv, tickets = (
        next(job for job in jobs if (job.fine_tuned_model or "").split(":")[3:4] == [suffix])
        for suffix in ("marv", "tickets")
    )
    failed = next(job for job in jobs if job.status == "failed")
    return {
        "jobs": "/",
        "create": f"/jobs/new?file={tickets.training_file}&validation={tickets.validation_file}",
        "job": f"/jobs/{tickets.id}",
        "job-failed": f"/jobs/{failed.id}",
        "improve": f"/jobs/{tickets.id}/improve",
        "overlay": f"/jobs/overlay?jobs={marv.id},{tickets.id}",
        "again": f"/jobs/new?again={tickets.id}",
        "models": "/models",
        "model": model_path(str(tickets.fine_tuned_model)).removeprefix("/dashboard"),
        "playground": playground_path(BASE, str(marv.fine_tuned_model)).removeprefix("/dashboard"),
        "stored": "/stored",
        "batches": "/batches",
        "stored-answer": f"/stored/{stored_answers(stand)}",
        "datasets": "/datasets",
        "dataset": f"/datasets/{marv.training_file}",
        "versions": f"/datasets/{marv.training_file}/versions",
        "compare": "/compare",
        "evals": "/evals",
        "evals-new": "/evals/new",
        "weights": "/weights",
        "usage": "/usage",
        "bases": "/bases",
        "keys": "/keys",
        "webhooks": "/webhooks",
        "mail": "/mail",
        "members": "/members",
        "limits": "/limits",
        "audit": "/audit",
    }


def stored_answers(stand: Stand) -> str:
    """A week of them through both APIs, unless an earlier run has left them; the id of one."""
    client, day = stand.client(), 86_400
    path = f"{stand.url}/tunery/v1/stored_answers"
    if not (kept := client.get(path, cast_to=dict)["data"]):
        project = client.get(f"{stand.url}/tunery/v1/session", cast_to=dict)["project_id"]
        rows = read_prompts(REPOSITORY / "examples" / "tickets_test.jsonl", limit=40)
        with write(stand.database) as conn:
            for number, row in enumerate(rows):
                values = {"created_at": int(time.time()) - number**2 * day // 200, "model": BASE}
                store = store_response if number % 3 else store_completion
                question = str(row.messages[-1]["content"])
                store(conn, project, question, row.expected or "", metadata={"team": "support"}, **values)
        kept = client.get(path, cast_to=dict)["data"]
    return kept[0]["id"]


def compare(stand: Stand, tuned: str) -> None:
    """The tuned model against its base, bare and with examples; carried out by the worker."""
    client = stand.client()
    with (REPOSITORY / "examples" / "tickets_test.jsonl").open("rb") as file:
        held_out = client.files.create(file=file, purpose="fine-tune")
    examples = next(job for job in client.fine_tuning.jobs.list(limit=100) if job.fine_tuned_model == tuned)
    plan = Plan(
        file_id=held_out.id,
        filename=held_out.filename,
        contestants=tuple(Contestant(model=model, shots=n) for model, n in ((tuned, 0), (BASE, 0), (BASE, 5))),
        max_rows=50,
        shots_file=examples.training_file,
    )

    async def carry_out() -> None:
        connection = Connection(stand.url, stand.key)
        eval_id = await running.start(connection, plan)
        while not (await running.look(connection, eval_id)).is_over:
            await asyncio.sleep(1)

    run(carry_out())


def comparison(stand: Stand) -> str:
    found = stand.client().get(f"{stand.url}/v1/evals", cast_to=dict, options={"params": {"order": "desc"}})["data"]
    return f"/compare/{next(each['id'] for each in found if running.MARK in (each['metadata'] or {}))}"


def evals(stand: Stand, prefix: str) -> list[str]:
    return [file.id for file in stand.client().files.list(purpose="evals").data if file.filename.startswith(prefix)]


def prepare_report(stand: Stand) -> str:
    """The old model's answers are the expected ones but for some mistakes; the successor and its base are asked."""
    if not evals(stand, "parity-"):
        prompts = read_prompts(REPOSITORY / "examples" / "tickets_test.jsonl")
        old = [
            ModelAnswer(
                prompt.row, prompt.messages, OLD_MODEL, prompt.expected, OLD_MISTAKES.get(prompt.row, prompt.expected),
                usage={"prompt_tokens": 78, "completion_tokens": 2}, latency_ms=410.0 + 7 * (prompt.row % 13),
            )
            for prompt in prompts
        ]  # fmt: skip
        golden = stand.home / "old.golden.jsonl"
        write_answers(golden, old)
        names = [job.fine_tuned_model or "" for job in stand.client().fine_tuning.jobs.list(limit=100).data]
        for suffix in ("marv", "tickets"):  # a model that learned something else, and the successor
            new = next(name for name in names if name.split(":")[3:4] == [suffix])
            command = ["--base-url", f"{stand.url}/v1", "--api-key", stand.key, "migrate", "openai", "report"]
            options = ["--base", BASE, "--max-tokens", "16", "--out", str(stand.home / "parity.html")]
            subprocess.run([sys.executable, "-m", "tunery", *command, str(golden), new, *options], check=True)
    return f"/move/{evals(stand, 'parity-')[0]}"


def ask(page: Page) -> None:
    """A question to the base and the tuned model."""
    system, message = page.locator("textarea").all()
    system.fill(SYSTEM)
    message.fill(QUESTION)
    page.keyboard.press("Enter")
    page.wait_for_function("document.querySelectorAll('.stats span').length >= 6", timeout=LONG_MS)


def search(page: Page) -> None:
    page.keyboard.press("Control+k")
    page.keyboard.type("tickets")
    page.locator("#search [role=option]").first.wait_for()


def sign_in(
    browser: Browser,
    stand: Stand,
    theme: str,
    viewport: dict,
    before: Callable[[Page], None] | None = None,
    *,
    locale: str = "en-US",
    key: str = "",
) -> Page:
    context = browser.new_context(viewport=viewport, color_scheme=theme, locale=locale)  # type: ignore[arg-type]
    page = context.new_page()
    page.goto(f"{stand.url}/")
    if before is not None:
        before(page)
    page.fill("input[name=key]", key or stand.key)
    page.click("button[type=submit]")
    page.wait_for_selector("#main")
    return page


def open_page(page: Page, stand: Stand, path: str) -> None:
    page.goto(f"{stand.url}/dashboard{path}")
    page.wait_for_function("window.did_handshake === true")
    if "/jobs/new" in path or ("/datasets/" in path and not path.endswith("/versions")):
        page.locator(".note.good").first.wait_for(timeout=LONG_MS)
    page.wait_for_timeout(SETTLE_MS)


def snap(page: Page, name: str) -> None:
    whole = not name.startswith(("playground", "search"))  # what sticks to the window stands in the midst of a page
    page.screenshot(path=PICTURES / f"{name}.png", full_page=whole)


if __name__ == "__main__":
    main()
