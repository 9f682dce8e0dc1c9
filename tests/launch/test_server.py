"""The whole server's start, without waiting for it to be up."""

import socket
import threading
from pathlib import Path

import pytest
from pydantic import SecretStr

from tunery.domain.tenants import lookup_prefix
from tunery.launch.server import Server, ServerFailed
from tunery.settings import Settings
from tunery.store import database, tenants

KEY = "sk-given-given-given-given"


def test_a_given_key_is_known_before_the_parts_are_up(tmp_path: Path, tiny_model_dir: Path) -> None:
    catalog = tmp_path / "catalog.toml"
    catalog.write_text(
        f'[bases.tiny]\nsource = "path:{tiny_model_dir}"\ncontext_length = 2048\n\n'
        '[[models]]\nname = "tiny"\nbase = "tiny"\n'
    )
    settings = Settings(home=tmp_path, port=0, api_key=SecretStr(KEY), catalog=catalog)
    server = Server(settings, say=print)
    server.prepare()
    at_once = threading.Event()
    at_once.set()
    try:
        assert server.start(at_once) is None
        engine = database.connect(settings.resolved_database_url)
        with engine.connect() as conn:
            assert tenants.find_key_by_prefix(conn, lookup_prefix(KEY)) is not None
        engine.dispose()
    finally:
        server.stop()


@pytest.mark.parametrize("given", [None, "chosen-by-the-owner"])
def test_the_engines_key_is_told_to_the_parts_and_to_nobody_else(
    tmp_path: Path, tiny_model_dir: Path, given: str | None
) -> None:
    """What a process is called with can be read by everybody on the machine; its environment cannot."""
    catalog = tmp_path / "catalog.toml"
    catalog.write_text(
        f'[bases.tiny]\nsource = "path:{tiny_model_dir}"\ncontext_length = 2048\n\n'
        '[[models]]\nname = "tiny"\nbase = "tiny"\n'
    )
    secret = None if given is None else SecretStr(given)
    server = Server(Settings(home=tmp_path, port=0, catalog=catalog, engine_api_key=secret), say=print)
    server.prepare()
    server.stop()
    assert server._host is not None
    source = f"path:{tiny_model_dir}"
    engine = server._host._spec(server._host._of(source), tiny_model_dir)
    specs = [engine, *(child.spec for child in server._children)]

    keys = {spec.environment["TUNERY_ENGINE_API_KEY"] for spec in specs}
    assert len(specs) == 3 and len(keys) == 1
    key = keys.pop()
    assert key == given if given else len(key) > 40
    assert not any(key in argument for spec in specs for argument in spec.arguments)
    arguments = engine.arguments
    folders = [arguments[index + 1] for index, name in enumerate(arguments) if name == "--adapters-dir"]
    assert [Path(folder).relative_to(tmp_path).parts[0] for folder in folders] == ["adapters", "work", "blobs"]


@pytest.mark.parametrize(
    ("host", "port", "sentence"),
    [
        ("127.0.0.1", None, "is taken. Choose another with --port"),
        ("192.0.2.1", 0, "has no address 192.0.2.1. Choose another with --host"),
        ("192.0.2.1", 8765, "has no address 192.0.2.1. Choose another with --host"),
        ("no-such-host.invalid", 0, "has no address no-such-host.invalid"),
        (f"{'x' * 70}.invalid", 8765, "has no address"),
    ],
)
def test_where_nothing_can_listen_the_start_says_why(
    tmp_path: Path, host: str, port: int | None, sentence: str
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        server = Server(
            Settings(home=tmp_path, host=host, port=taken.getsockname()[1] if port is None else port), say=print
        )
        with pytest.raises(ServerFailed, match=sentence):
            server.prepare()
        server.stop()


def test_a_start_tells_what_it_waits_for(tmp_path: Path, tiny_model_dir: Path) -> None:
    catalog = tmp_path / "catalog.toml"
    catalog.write_text(
        f'[bases.tiny]\nsource = "path:{tiny_model_dir}"\ncontext_length = 2048\n\n'
        '[[models]]\nname = "tiny"\nbase = "tiny"\n'
    )
    server = Server(Settings(home=tmp_path, port=0, catalog=catalog), say=print)
    server.prepare()
    stop = threading.Event()
    told: list[str] = []

    def tell(what: str) -> None:
        told.append(what)
        stop.set()

    try:
        assert server.start(stop, tell) is None
    finally:
        server.stop()
    assert told == ["Starting the server: waiting for the API"]
