"""The api's client of several engines, over two real ones: it loads adapters where they are needed and fails over."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import Counter

from tests.loops import run
from tests.rows import fine_tuned_model
from tests.serving.server import EngineServer
from tunery.domain.errors import Unavailable
from tunery.engines.pool import FEW, SHARE, Engines, Target
from tunery.models.catalog import Catalog
from tunery.serving.settings import EngineSettings
from tunery.settings import Settings
from tunery.store.blobs import Blobs

BODY: dict[str, Any] = {"messages": [{"role": "user", "content": "x"}], "max_tokens": 2, "ignore_eos": True}


@pytest.fixture
def servers(settings: EngineSettings) -> Iterator[list[EngineServer]]:
    with EngineServer(settings) as first, EngineServer(settings) as second:
        yield [first, second]


@pytest.fixture
def engines(servers: list[EngineServer], home: Path, adapters: dict[str, Path]) -> Engines:
    settings = Settings(home=home, engine_urls=[server.url for server in servers])
    blobs = Blobs.in_folder(home / "blobs")
    for number in range(6):
        blobs.upload_dir(f"adapters/model_{number}", adapters["full"])
    return Engines(settings, blobs, Catalog.load())


def target(number: int) -> Target:
    model = fine_tuned_model(id=f"model_{number}", name=f"ft:base:org::aaaaaaa{number}", source="base")
    return Target(model.name, "base", None, model)


async def ask(engines: Engines, number: int) -> dict[str, Any]:
    async with engines.post("/v1/chat/completions", BODY, target(number)) as response:
        return json.loads(await response.read())


def loaded(server: EngineServer) -> set[str]:
    return set(server.service.engine.adapters)


def test_each_model_has_its_server_and_moves_when_that_is_gone(engines: Engines, servers: list[EngineServer]) -> None:
    async def scenario() -> None:
        for _ in range(2):
            for number in range(6):
                assert (await ask(engines, number))["model"] == f"model_{number}"
        first, second = loaded(servers[0]), loaded(servers[1])
        assert first | second == {f"model_{number}" for number in range(6)}
        assert not first & second

        servers[0].stop()
        for number in range(6):
            assert (await ask(engines, number))["choices"][0]["finish_reason"] == "length"
        assert loaded(servers[1]) == first | second

        servers[1].stop()
        with pytest.raises(Unavailable) as down:
            await ask(engines, 0)
        assert down.value.status == 503
        await engines.close()

    run(scenario())


def test_a_hot_model_is_spread_and_a_quiet_one_stays_where_it_is(engines: Engines, servers: list[EngineServer]) -> None:
    async def scenario() -> None:
        await asyncio.gather(*(ask(engines, 0) for _ in range(FEW)))
        at_home = [server for server in servers if "model_0" in loaded(server)]
        assert len(at_home) == 1, "as few as these do not make an engine busy"

        both = [server.service.engine.metrics.finished for server in servers]
        before = [num_finished(each) for each in both]
        await asyncio.gather(*(ask(engines, 0) for _ in range(10 * FEW)), ask(engines, 1))
        assert all("model_0" in loaded(server) for server in servers)
        done = [num_finished(each) - was for each, was in zip(both, before, strict=True)]
        assert sum(done) == 10 * FEW + 1 and max(done) <= SHARE * sum(done) / 2 + 1

        hot = target(0).adapter
        assert hot is not None
        await engines.forget(hot)
        await ask(engines, 0)
        assert [server for server in servers if "model_0" in loaded(server)] == at_home, (
            "it came home when it was quiet"
        )
        await engines.close()

    run(scenario())


def num_finished(metric: Counter) -> float:
    return sum(sample.value for each in metric.collect() for sample in each.samples if sample.name.endswith("_total"))


def test_a_restarted_server_is_given_its_adapters_again(
    settings: EngineSettings, engines: Engines, servers: list[EngineServer]
) -> None:
    async def scenario() -> None:
        for number in range(6):
            await ask(engines, number)
        before = loaded(servers[0])
        servers[0].stop()
        with EngineServer(settings, servers[0].port) as restarted:
            for number in range(6):
                await ask(engines, number)
            assert loaded(restarted) == before
        await engines.close()

    run(scenario())
