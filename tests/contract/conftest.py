"""The official client, strict, against the api on a real port with a real engine behind it."""

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import uvicorn
from openai import OpenAI

from tests import node_clients
from tests.api.conftest import BASE, NOW, SECRET, engine_url, tiny_adapter_dir  # noqa: F401  fixtures
from tests.contract.tool_model import train, write_base
from tests.rows import fine_tuned_model
from tunery.api.app import create_app
from tunery.api.context import Context
from tunery.settings import Settings
from tunery.store import models, tenants
from tunery.store.bootstrap import bootstrap
from tunery.store.database import migrate, write


@dataclass(frozen=True)
class Live:
    base_url: str  # with /v1
    context: Context
    project_id: str
    organization_id: str

    def client(self, **options: object) -> OpenAI:
        chosen = {"api_key": SECRET, "base_url": self.base_url, "max_retries": 0, **options}
        return OpenAI(_strict_response_validation=True, **chosen)  # pyright: ignore[reportArgumentType]


@pytest.fixture(scope="session")
def page_origin() -> Iterator[str]:
    """Of pages that may call the API; the official Node SDK's files are there, once they are installed."""
    folder = node_clients.folder("current") / "node_modules" / "openai"
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(_Files, directory=str(folder))) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join(20)


class _Files(SimpleHTTPRequestHandler):
    extensions_map = {".mjs": "text/javascript", "": "text/html"}  # noqa: RUF012  read by the base class

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture(scope="session")
def live(tmp_path_factory: pytest.TempPathFactory, engine_url: str, page_origin: str) -> Iterator[Live]:  # noqa: F811
    home = Path(tmp_path_factory.mktemp("contract"))
    settings = Settings(
        home=home, engine_urls=[engine_url], webhook_allow_private_addresses=True, cors_origins=[page_origin]
    )
    app = create_app(settings)
    context: Context = app.state.context
    migrate(context.database)
    with write(context.database) as conn:
        bootstrap(conn, clock=context.clock, key=SECRET)
        organization = tenants.list_organizations(conn)[0]
        project = tenants.list_projects(conn, organization.id).items[0]
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="warning", access_log=False))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        thread.join(0.02)
    port = server.servers[0].sockets[0].getsockname()[1]
    yield Live(f"http://127.0.0.1:{port}/v1", context, project.id, organization.id)
    server.should_exit = True
    thread.join(20)


@pytest.fixture
def client(live: Live) -> Iterator[OpenAI]:
    with live.client() as made:
        yield made


@pytest.fixture(scope="session")
def tiny_model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One that can be taught to call tools."""
    return write_base(tmp_path_factory.mktemp("tiny-model"))


def add_model(live: Live, name: str, adapter: Path) -> None:
    owner = {"project_id": live.project_id, "owned_by": live.organization_id}
    model = fine_tuned_model(name=name, created_at=int(NOW), base_model=BASE, **owner)
    live.context.blobs.upload_dir(model.blob, adapter)
    with write(live.context.database) as conn:
        models.insert_model(conn, model)


@pytest.fixture(scope="session")
def tool_model(live: Live, tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """One that was trained to call `track_parcel`, and is nobody's to delete."""
    name = f"ft:{BASE}:personal:tools:AbCd1234"
    add_model(live, name, train(tiny_model_dir, tmp_path_factory.mktemp("tool-model")))
    return name


@pytest.fixture
def tuned(live: Live, tiny_adapter_dir: Path) -> Iterator[str]:  # noqa: F811
    """A fine-tuned model that is there; a test may delete it."""
    name = f"ft:{BASE}:personal:contract:AbCd1234"
    add_model(live, name, tiny_adapter_dir)
    yield name
    with write(live.context.database) as conn:
        if models.find_model(conn, name, live.project_id):
            models.delete_model(conn, name, live.project_id)
