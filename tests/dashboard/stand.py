"""A server with the dashboard, in processes of its own, for tests in a real browser."""

import os
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from openai import OpenAI
from sqlalchemy import Engine

from tests.fixtures_services import free_port
from tunery.domain.clock import system_clock
from tunery.domain.ids import new_id
from tunery.domain.tenants import ApiKey, Project, Role, User, hash_secret, key_hint, lookup_prefix, new_secret
from tunery.models.sources.cache import ensure
from tunery.settings import Settings, load_settings
from tunery.store import tenants
from tunery.store.bootstrap import bootstrap
from tunery.store.database import migrate, open_database, write

START_TIMEOUT_S = 90
PROXY = "127.0.0.8"  # whose X-Forwarded headers count; browsers come from 127.0.0.1


@dataclass
class Stand:
    home: Path
    model_cache: Path | None = None
    catalog: Path | None = None
    port: int = field(default_factory=free_port)
    key: str = ""
    options: dict[str, Any] = field(default_factory=dict)  # settings beside those that a stand has in any case
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    engine_url: str = ""

    def __post_init__(self) -> None:
        self.database: Engine = open_database(self.settings)
        migrate(self.database)
        with write(self.database) as conn:
            self.key = bootstrap(conn, clock=system_clock, key=None) or ""

    @property
    def settings(self) -> Settings:
        return load_settings(
            home=self.home,
            port=self.port,
            catalog=self.catalog,
            engine_urls=[self.engine_url] if self.engine_url else [],
            model_cache=self.model_cache,
            **{"trusted_proxies": (PROXY,), **self.options},
        )

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def client(self, key: str = "") -> OpenAI:
        return OpenAI(base_url=f"{self.url}/v1", api_key=key or self.key, max_retries=0)

    def admin_client(self) -> OpenAI:
        return OpenAI(base_url=f"{self.url}/v1", api_key=self.key, admin_api_key=self.key, max_retries=0)

    def start_engine(self, source: str) -> None:
        """Of the base with this source in the catalog."""
        model_dir = ensure(source, self.settings.models_dir)
        port = free_port()
        arguments = ("--model-dir", str(model_dir), "--served-name", source, "--host", "127.0.0.1", "--port", str(port))
        self._start("engine", "tunery.serving", *arguments)
        self.engine_url = f"http://127.0.0.1:{port}"
        self._wait("engine", f"{self.engine_url}/health")

    def start_web(self) -> None:
        self._start("web", "tunery.launch.web")
        self._wait("web", f"{self.url}/dashboard/sign-in")

    def start_worker(self) -> None:
        self._start("worker", "tunery.jobs")

    def stop(self, name: str, *, kill: bool = False) -> None:
        process = self.processes.pop(name)
        process.kill() if kill else process.terminate()
        process.wait(timeout=30)

    def stop_all(self) -> None:
        for name in list(self.processes):
            self.stop(name)
        self.database.dispose()

    def new_project(self, name: str, role: Role = Role.OWNER) -> tuple[str, str]:
        """The project's id and a key for it."""
        secret, now = new_secret(), int(time.time())
        with write(self.database) as conn:
            organization = tenants.list_organizations(conn)[0]
            user = User(
                id=new_id("user"),
                organization_id=organization.id,
                email=f"{name.replace(' ', '-')}@example.com",
                name=name,
                role=Role.MEMBER,
                created_at=now,
            )
            tenants.insert_user(conn, user)
            project = Project(new_id("project"), organization.id, name, now)
            tenants.insert_project(conn, project)
            tenants.set_membership(conn, project.id, user.id, role, now)
            tenants.insert_key(
                conn,
                ApiKey(
                    id=new_id("key"),
                    organization_id=organization.id,
                    project_id=project.id,
                    user_id=user.id,
                    name=f"key of {name}",
                    prefix=lookup_prefix(secret),
                    hash=hash_secret(secret),
                    hint=key_hint(secret),
                    created_at=now,
                    role=role,
                ),
            )
        return project.id, secret

    def _start(self, name: str, module: str, *arguments: str) -> None:
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("TUNERY_", "OPENAI_"))}
        with (self.home / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                [sys.executable, "-m", module, *arguments],
                env={**kept, **self.settings.as_environment()},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def _wait(self, name: str, url: str) -> None:
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline:
            try:
                if httpx.get(url, timeout=2).status_code == 200:
                    return
            except httpx.HTTPError:
                time.sleep(0.1)
            assert self.processes[name].poll() is None, (self.home / f"{name}.log").read_text()
        raise TimeoutError(f"{name} is not up: {(self.home / f'{name}.log').read_text()}")
