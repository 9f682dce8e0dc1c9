"""Old names that are passed on to OpenAI, whose answers become the golden set."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from openai import OpenAI

from tests.migrate.installations import install
from tunery.metering.prices import PriceTable
from tunery.migrate.capture import recorded_answers

OLD = "ft:gpt-4o-mini-2024-07-18:acme:support:00000002"


def post(client: OpenAI, path: str, **body: Any) -> Any:
    root = str(client.base_url).rstrip("/").removesuffix("/v1")
    return client.post(f"{root}/tunery/v1{path}", cast_to=object, body=body)


@pytest.fixture
def server(tmp_path: Path, recorded_openai: Any) -> Iterator[OpenAI]:
    recorded_openai.answers = {"Where is my parcel?": "on its way", "Hello": "hi there"}
    values = {"upstream_base_url": recorded_openai.base_url, "upstream_api_key": "sk-at-openai"}
    with install(tmp_path / "home", "new", **values).serving() as client:
        yield client


def ask(client: OpenAI, question: str, **extra: Any) -> Any:
    return client.chat.completions.create(model=OLD, messages=[{"role": "user", "content": question}], **extra)


def test_an_old_name_is_passed_on_and_every_answer_kept(server: OpenAI, recorded_openai: Any) -> None:
    post(server, "/aliases", name=OLD, target=f"openai:{OLD}")
    whole = ask(server, "Where is my parcel?")
    pieces = [chunk.choices[0].delta.content or "" for chunk in ask(server, "Hello", stream=True) if chunk.choices]
    assert (whole.choices[0].message.content, "".join(pieces)) == ("on its way", "hi there")
    kept = list(recorded_answers(server, OLD))
    assert [(answer.messages[-1]["content"], answer.answer) for answer in kept] == [
        ("Where is my parcel?", "on its way"),
        ("Hello", "hi there"),
    ]
    assert recorded_openai.keys == {"sk-at-openai"}


def test_back_ends_the_passing_on_at_once(server: OpenAI, recorded_openai: Any) -> None:
    post(server, "/aliases", name=OLD, target=f"openai:{OLD}")
    ask(server, "Hello")
    assert post(server, "/aliases/revert", name=OLD)["target"] is None
    with pytest.raises(openai.NotFoundError):
        ask(server, "Hello")
    assert recorded_openai.requests["/v1/chat/completions"] == 1


def test_the_upstreams_own_error_is_told(server: OpenAI) -> None:
    post(server, "/aliases", name=OLD, target="openai:gpt-4o-mini-2024-07-18")
    with pytest.raises(openai.BadRequestError, match="The model `gpt-4o-mini-2024-07-18` does not exist"):
        ask(server, "Hello")


def test_an_upstream_is_called_where_the_settings_allow_it(tmp_path: Path, recorded_openai: Any) -> None:
    recorded_openai.answers = {"Hello": "hi there"}
    by_name = recorded_openai.base_url.replace("127.0.0.1", "localhost")
    assert by_name != recorded_openai.base_url
    values = {"upstream_base_url": by_name, "upstream_api_key": "sk-at-openai"}
    for networks in ([], ["127.0.0.0/8", "::1"]):
        home = tmp_path / f"home{len(networks)}"
        with install(home, "new", **values, private_networks=networks).serving() as client:
            post(client, "/aliases", name=OLD, target=f"openai:{OLD}")
            if networks:
                assert ask(client, "Hello").choices[0].message.content == "hi there"
                continue
            with pytest.raises(openai.InternalServerError, match="private_networks"):
                ask(client.with_options(max_retries=0), "Hello")
    assert recorded_openai.requests["/v1/chat/completions"] == 1


@pytest.mark.parametrize("model", ["o9", "ft:o9-2030-01-01:acme::00000001", "gpt-4o-mini-2024", "gpt-4o-mini-"])
def test_a_model_without_a_price_is_not_passed_on(server: OpenAI, model: str) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        post(server, "/aliases", name="new", target=f"openai:{model}")
    assert (caught.value.param, caught.value.code) == ("target", "model_has_no_price")


def test_a_name_without_a_day_has_its_snapshots_price() -> None:
    prices = PriceTable.load()
    assert prices.price_of("gpt-4o-mini", 2e9) == prices.price_of("gpt-4o-mini-2024-07-18", 2e9)
    assert prices.charges("gpt-4o", 2e9) and not prices.charges("gpt-4o-mini-9", 2e9)


def test_without_a_key_nothing_can_be_passed_on(tmp_path: Path) -> None:
    with install(tmp_path / "home", "new").serving() as client, pytest.raises(openai.BadRequestError) as caught:
        post(client, "/aliases", name=OLD, target=f"openai:{OLD}")
    assert caught.value.param == "target"
