"""Two apis behind a load balancer, two workers and two engines, which share a Postgres, an S3 and nothing else that
matters: one of each is killed at its work, and nothing is lost or done twice."""

import sys
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from openai import OpenAI
from playwright.sync_api import Browser, Page, expect
from sqlalchemy import Engine

from tests.e2e.balancer import Balancer
from tests.e2e.test_restart import start_job, steps_told
from tests.e2e.test_sdk import finished
from tests.fixtures_services import SECRETS_KEY, free_port
from tests.launch.processes import wait_for
from tests.metering.spender import Spender
from tests.metering.test_kill import Server
from tests.rows import ledger
from tunery.dashboard.sessions import COOKIE
from tunery.store import tenants
from tunery.store.database import connect, read
from tunery.texts import translator

KEY = "sk-of-two-of-each"
EPOCHS, STEPS = 8, 8 * 18
NUM_REQUESTS = 400
TYPED = "What only I have typed"
pytestmark = pytest.mark.e2e


@dataclass(frozen=True)
class Site:
    balancer: Balancer
    apis: list[Server]
    workers: list[Server]
    engines: list[Server]
    database: Engine

    @property
    def client(self) -> OpenAI:
        return OpenAI(base_url=f"{self.balancer.url}/v1", api_key=KEY, max_retries=8)


@pytest.fixture
def site(
    home: Path, postgres_url: str, s3_settings: dict[str, str], tiny_settings: dict[str, str], tiny_model_dir: Path
) -> Iterator[Site]:
    ports = [free_port() for _ in range(2)]
    shared = {
        **tiny_settings,
        **{f"TUNERY_{name.upper()}": value for name, value in s3_settings.items()},
        "TUNERY_HOME": str(home),
        "TUNERY_DATABASE_URL": postgres_url,
        "TUNERY_SECRETS_KEY": SECRETS_KEY,
        "TUNERY_ENGINE_URLS": ",".join(f"http://127.0.0.1:{port}" for port in ports),
        "TUNERY_LEASE_S": "5",
    }
    served = ["--model-dir", str(tiny_model_dir), "--served-name", f"path:{tiny_model_dir}", "--threads", "1"]
    with ExitStack() as stack:

        def start(name: str, module: str, port: int, *arguments: str, **environment: str) -> Server:
            log = home / f"{name}-{port}.log"
            server = Server([sys.executable, "-m", module, *arguments], port, {**shared, **environment}, log)
            stack.callback(server.kill)
            return server

        engines = [start("engine", "tunery.serving", port, "--port", str(port), *served) for port in ports]
        apis = []
        for _ in range(2):
            port = free_port()
            apis.append(start("api", "tunery.launch.web", port, TUNERY_PORT=str(port), TUNERY_API_KEY=KEY))
        workers = [start("worker", "tunery.launch.worker", number) for number in range(2)]
        for server in (*engines, *apis):
            server.wait()
        balancer = stack.enter_context(Balancer([api.url for api in apis]))
        database = connect(postgres_url)
        stack.callback(database.dispose)
        wait_for(lambda: all(ready(api.url) for api in apis), timeout_s=120)
        yield Site(balancer, apis, workers, engines, database)


def ready(url: str) -> bool:
    return httpx.get(f"{url}/health/ready", timeout=10).status_code == 200


def test_one_of_each_is_killed_and_nothing_is_lost_or_repeated(site: Site, browser: Browser) -> None:
    first, second = (httpx.Client(base_url=api.url, timeout=60) for api in site.apis)
    with first, second, Balancer([api.url for api in site.apis], is_loyal=True) as loyal:
        page = open_page(browser, loyal.url, first)
        second.cookies = first.cookies
        second.post("/dashboard/preferences", data={"language": "ja"})
        assert all('<html lang="ja"' in visitor.get("/dashboard/keys").text for visitor in (first, second))
        while_killed(site)
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


def while_killed(site: Site) -> None:
    """A job and many completions, in the middle of which an api, an engine and a worker die."""
    job_id = start_job(site.client, n_epochs=EPOCHS, batch_size=4)
    received = Counter[str]()
    with ThreadPoolExecutor(4) as clients:
        spender = Spender(KEY, [f"{site.balancer.url}/v1/chat/completions"])
        answers = [clients.submit(spender.ask, number) for number in range(NUM_REQUESTS)]
        wait_for(lambda: sum(answer.done() for answer in answers) > NUM_REQUESTS // 8, timeout_s=120)
        site.apis[0].kill()
        wait_for(lambda: sum(answer.done() for answer in answers) > NUM_REQUESTS // 4, timeout_s=120)
        site.engines[0].kill()
        wait_for(lambda: len(steps_told(site.client, job_id)) > 3, timeout_s=300)
        holder = next(worker for worker in site.workers if f"{job_id} begins" in worker.log.read_text())
        holder.kill()
        for answer in answers:
            usage = answer.result()
            received.update(input_tokens=usage["prompt_tokens"], output_tokens=usage["completion_tokens"])

    job = finished(site.client, job_id)
    assert job.status == "succeeded", job.error
    steps = steps_told(site.client, job_id)
    assert steps == sorted(set(steps)) and steps[-1] == STEPS
    events = [event.message for event in site.client.fine_tuning.jobs.list_events(job_id, limit=100)]
    assert sum(message == "The job has successfully completed" for message in events) == 1
    assert len(list(site.client.models.list())) == len({model.id for model in site.client.models.list()})

    assert job.fine_tuned_model is not None
    said = site.client.chat.completions.create(
        model=job.fine_tuned_model, messages=[{"role": "user", "content": "Hello"}], max_completion_tokens=4
    )
    assert said.usage is not None
    with read(site.database) as conn:
        organization = tenants.list_organizations(conn)[0]
        records = ledger(conn, tenants.list_projects(conn, organization.id).items[0].id)
    of_requests = [record for record in records if (record.client_request_id or "").startswith("completion-")]
    assert len(of_requests) == NUM_REQUESTS, "an answer was lost or charged twice"
    for name, total in received.items():
        assert sum(getattr(record, name) for record in of_requests) == total, name
