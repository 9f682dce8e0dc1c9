"""How likely a model finds an answer. That the numbers are right is shown in the dashboard's tests."""

import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.api.conftest import Api
from tests.api.test_rights_of_running import TAKEN, person_of
from tests.engine_process import EngineProcess, start_engine
from tests.rows import ledger
from tunery.api import delivery
from tunery.api.delivery import Running
from tunery.domain.tenants import Scope
from tunery.models.sources.cache import ensure
from tunery.store.database import read

CATALOG = """
[bases.tiny]
source = "path:{folder}"
context_length = 2048

[[models]]
name = "tiny-1"
base = "tiny"
"""
PRICES = 'currency = "usd"\n[default]\ntraining = 1\ninput = 1\ncached_input = 1\noutput = 1\n'
GOOD = [{"role": "user", "content": "What is the capital?"}, {"role": "assistant", "content": "Paris."}]
UNRENDERABLE = [{"role": "user", "content": "What?"}, {"role": "assistant", "tool_calls": 7}]
TRIES = 8


@pytest.fixture(scope="module")
def engine(tiny_model_dir: Path) -> Iterator[EngineProcess]:
    engine = start_engine(tiny_model_dir, name="tiny-1")
    yield engine
    engine.kill()


@pytest.fixture
def engine_url(engine: EngineProcess) -> str:
    return engine.url


@pytest.fixture
def limited(make_api: Callable[..., Api], tiny_model_dir: Path, tmp_path: Path) -> Callable[..., Api]:
    """An api with so few tokens a minute that they last for some requests only."""
    (tmp_path / "catalog.toml").write_text(CATALOG.format(folder=tiny_model_dir))
    (tmp_path / "prices.toml").write_text(PRICES)
    files = {"catalog": tmp_path / "catalog.toml", "prices": tmp_path / "prices.toml"}
    cache = tmp_path / "models"
    ensure(f"path:{tiny_model_dir}", cache)
    return lambda url, limit=60: make_api(engine_urls=[url], tokens_per_minute=limit, model_cache=cache, **files)


JUDGE = {
    "type": "score_model",
    "name": "j",
    "model": "tiny-1",
    "input": [{"role": "user", "content": "Good?"}],
    "sampling_params": {"max_completions_tokens": 1000},
}
SEVERAL = {"type": "multi", "name": "m", "graders": {"a": JUDGE, "b": JUDGE}, "calculate_output": "a + b"}
HELD = {
    "score": ("/tunery/v1/scores", {"model": "tiny-1", "messages": GOOD}),
    "judge": ("/v1/fine_tuning/alpha/graders/run", {"grader": JUDGE, "model_sample": "x", "item": {}}),
    "judges": ("/v1/fine_tuning/alpha/graders/run", {"grader": SEVERAL, "model_sample": "x", "item": {}}),
}


@pytest.mark.parametrize("how", ["revoked", "narrowed", "made a reader", "archived", "left the organization"])
@pytest.mark.parametrize("what", HELD)
def test_what_a_model_is_asked_ends_with_the_right_to_ask_and_is_charged(
    limited: Callable[..., Api], engine: EngineProcess, monkeypatch: pytest.MonkeyPatch, what: str, how: str
) -> None:
    monkeypatch.setattr(delivery, "LOOK_EVERY_S", 0.05)
    api = limited(engine.url, 0)
    path, body = HELD[what]
    (take, code), person = TAKEN[how], person_of(api)
    running = api.context.shared(Running)
    with ThreadPoolExecutor(1) as asking:
        engine.process.send_signal(signal.SIGSTOP)  # an engine that is busy for minutes with what it was asked
        try:
            answer = asking.submit(api.client.post, path, json=body, headers=api.as_key(person.secret))
            while not running.callers:
                time.sleep(0.01)
            time.sleep(0.2)
            assert not answer.done()
            take(person)
            refused = answer.result(20)
        finally:
            engine.process.send_signal(signal.SIGCONT)
    assert refused.status_code == (401 if code == "invalid_api_key" else 403), refused.text
    deadline = time.monotonic() + 30
    while running.callers and time.monotonic() < deadline:
        time.sleep(0.02)
    with read(api.engine) as conn:
        assert [row.output_tokens < 100 for row in ledger(conn, person.project)] == [True]


def test_a_judge_needs_the_right_of_its_grader_and_no_other(limited: Callable[..., Api], engine_url: str) -> None:
    """A key that may grade and not ask: what watches the rights of running answers must not end its judges."""
    api = limited(engine_url, 0)
    headers = api.as_key(api.make_key(scopes=(Scope.JOBS_WRITE,)))
    asked: list[set[Any]] = []
    running = api.context.shared(Running)
    answer, held = running.answer, HELD["judge"]
    running.answer = lambda *args: asked.append({args[-1]}) or answer(*args)  # type: ignore[method-assign]
    assert api.client.post(held[0], json=held[1], headers=headers).status_code == 200
    assert asked == [{Scope.JOBS_WRITE}]


def ask(api: Api, messages: list[dict[str, Any]]) -> Any:
    return api.client.post("/tunery/v1/scores", json={"model": "tiny-1", "messages": messages})


def test_scores_take_from_the_tokens_a_minute(limited: Callable[[str], Api], engine_url: str) -> None:
    api = limited(engine_url)
    statuses = [ask(api, GOOD).status_code for _ in range(TRIES)]
    assert statuses[0] == 200
    assert statuses[-1] == 429


def test_an_engine_that_is_away_costs_nothing(limited: Callable[[str], Api]) -> None:
    api = limited("http://127.0.0.1:9")
    assert {ask(api, GOOD).status_code for _ in range(TRIES)} == {503}


def test_messages_that_cannot_be_rendered_cost_nothing(limited: Callable[[str], Api], engine_url: str) -> None:
    api = limited(engine_url)
    assert {ask(api, UNRENDERABLE).status_code for _ in range(TRIES)} == {400}
    assert ask(api, GOOD).status_code == 200
