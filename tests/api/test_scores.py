"""How likely a model finds an answer. That the numbers are right is shown in the dashboard's tests."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.api.conftest import Api, start_engine
from tunery.models.sources.cache import ensure

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
def engine_url(tiny_model_dir: Path) -> Iterator[str]:
    engine = start_engine(tiny_model_dir, name="tiny-1")
    yield engine.url
    engine.kill()


@pytest.fixture
def limited(make_api: Callable[..., Api], tiny_model_dir: Path, tmp_path: Path) -> Callable[[str], Api]:
    """An api with so few tokens a minute that they last for some requests only."""
    (tmp_path / "catalog.toml").write_text(CATALOG.format(folder=tiny_model_dir))
    (tmp_path / "prices.toml").write_text(PRICES)
    files = {"catalog": tmp_path / "catalog.toml", "prices": tmp_path / "prices.toml"}
    cache = tmp_path / "models"
    ensure(f"path:{tiny_model_dir}", cache)
    return lambda url: make_api(engine_urls=[url], tokens_per_minute=60, model_cache=cache, **files)


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
