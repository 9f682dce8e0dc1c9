"""The whole server's start, without waiting for it to be up."""

import threading
from pathlib import Path

from pydantic import SecretStr

from tunery.domain.tenants import lookup_prefix
from tunery.launch.server import Server
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
