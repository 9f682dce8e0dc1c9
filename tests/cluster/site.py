"""An installation of machines that share a Postgres, an S3 and a balancer. A machine is a node of the Ray cluster, an
engine, an api and a worker, on a core of its own.

This process must be in a network of its own, with `tests.ray_cluster.alone`: nodes know each other by the ports of it.
"""

import os
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
from openai import OpenAI
from sqlalchemy import Engine

from tests import vllm_process
from tests.e2e.balancer import Balancer
from tests.fixtures_services import SECRETS_KEY, free_port, object_store, postgres_server, settings_of_store
from tests.launch.processes import wait_for
from tests.ray_cluster import ADDRESS, QUIET, RayCluster
from tests.servers import Server
from tunery.store.database import connect, migrate

BASE = "gpt-4o-mini-2024-07-18"
KEY = "sk-of-the-whole-cluster"
MACHINES = ("one", "two")
START_S = 120.0


def progress(text: str) -> None:
    sys.stderr.write(f"{time.strftime('%H:%M:%S')} {text}\n")
    sys.stderr.flush()


@dataclass
class Site:
    folder: Path
    model_dir: Path
    shared: dict[str, str]  # the environment of every part
    ports: dict[str, int]  # of engines and apis, by name, chosen before any of them starts
    cluster: RayCluster
    balancer: Balancer
    database: Engine
    parts: dict[str, Server] = field(default_factory=dict)

    @property
    def client(self) -> OpenAI:
        """The administrator's."""
        return OpenAI(base_url=f"{self.balancer.url}/v1", api_key=KEY, admin_api_key=KEY)

    def join(self, *names: str) -> None:
        """More machines, once they answer."""
        for name in names:
            self._start(f"engine {name}", "tunery.serving", *self._engine_arguments(f"engine {name}"), "--threads", "1")
            self._start(f"api {name}", "tunery.launch.web", TUNERY_PORT=str(self.ports[f"api {name}"]))
        self.cluster.start(*names, pinned=True)
        for name in names:
            self._start(f"worker {name}", "tunery.launch.worker")
            for part in (f"engine {name}", f"api {name}"):
                self.parts[part].wait()
        wait_for(lambda: all(is_ready(self.parts[f"api {name}"]) for name in names), START_S)

    def start_vllm(self, stack: ExitStack) -> None:
        """A third engine: a real vLLM and our face before it."""
        vllm = vllm_process.VllmProcess(self.model_dir)
        stack.callback(vllm.kill)
        vllm.wait()
        self._start("engine vllm", "tunery.serving.vllm", "--url", vllm.url, *self._engine_arguments("engine vllm"))
        self.parts["engine vllm"].wait()

    def _engine_arguments(self, name: str) -> list[str]:
        served = ["--model-dir", str(self.model_dir), "--served-name", f"path:{self.model_dir}"]
        return [*served, "--port", str(self.ports[name])]

    def _start(self, name: str, module: str, *arguments: str, **environment: str) -> None:
        machine = name.rpartition(" ")[2]
        core = ["taskset", "--cpu-list", str(MACHINES.index(machine))] if machine in MACHINES else []
        command = [*core, sys.executable, "-m", module, *arguments]
        log = self.folder / f"{name.replace(' ', '-')}.log"
        self.parts[name] = Server(command, self.ports.get(name, 0), {**self.shared, **environment}, log)

    def kill(self, name: str) -> None:
        self.parts.pop(name).kill()

    def close(self) -> None:
        for name in list(self.parts):
            self.kill(name)


def is_ready(api: Server) -> bool:
    return httpx.get(f"{api.url}/health/ready", timeout=10).status_code == 200


def make_model(folder: Path) -> tuple[Path, dict[str, str]]:
    """The tiny model, and settings that put OpenAI's name on it. vLLM on a CPU has no heads of 16 numbers."""
    from transformers.utils import logging  # late, as torch: the command line does without

    from tests.tiny_model import tiny_settings, write_tiny_model

    model_dir = folder / "model"
    model_dir.mkdir()
    logging.disable_progress_bar()
    write_tiny_model(model_dir, head_dim=32 if vllm_process.PYTHON else 16)
    return model_dir, tiny_settings(folder, model_dir, BASE)


@contextmanager
def open_site(folder: Path) -> Iterator[Site]:
    """With the head of a Ray cluster, and no machine yet. What the machines do not have to themselves takes the other
    cores, where there are any."""
    os.sched_setaffinity(0, set(range(len(MACHINES), os.cpu_count() or 1)) or os.sched_getaffinity(0))
    ports = {f"{part} {name}": free_port() for part in ("engine", "api") for name in MACHINES}
    engines = [f"engine {name}" for name in MACHINES]
    if vllm_process.PYTHON:
        engines.append("engine vllm")
        ports["engine vllm"] = free_port()
    with ExitStack() as stack:
        stored = settings_of_store(stack.enter_context(object_store()))
        settings = {f"TUNERY_{name.upper()}": value for name, value in stored.items()}
        cluster = RayCluster(folder, settings, is_alone=True)
        stack.callback(cluster.close)
        head = stack.enter_context(ThreadPoolExecutor(1)).submit(cluster.start)
        model_dir, on_model = make_model(folder)
        postgres = stack.enter_context(postgres_server())
        migrate(database := connect(postgres))
        stack.callback(database.dispose)
        shared = settings | QUIET | on_model | {
            "TUNERY_HOME": str(folder / "home"),
            "TUNERY_DATABASE_URL": postgres,
            "TUNERY_SECRETS_KEY": SECRETS_KEY,
            "TUNERY_API_KEY": KEY,
            "TUNERY_ENGINE_URLS": ",".join(f"http://127.0.0.1:{ports[name]}" for name in engines),
            "TUNERY_RUNNER": "ray",
            "TUNERY_RAY_ADDRESS": ADDRESS,
            "TUNERY_WORKER_CONCURRENCY": "4",
            "TUNERY_LEASE_S": "5",
            "TUNERY_STATE_INTERVAL_S": "0.5",
        }  # fmt: skip
        head.result()
        balancer = stack.enter_context(Balancer([f"http://127.0.0.1:{ports[f'api {name}']}" for name in MACHINES]))
        site = Site(folder, model_dir, shared, ports, cluster, balancer, database)
        stack.callback(site.close)
        if vllm_process.PYTHON:
            progress("starting a vLLM, which takes a minute")
            site.start_vllm(stack)
        yield site
