"""`tunery doctor`: what it finds on a machine that is fit, and what it says of each thing that is not."""

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from aiosmtpd.controller import Controller
from sqlalchemy import select

from tests.rows import fine_tuned_model
from tunery.cli.doctor import LOOKS, Finding
from tunery.kernels import int8, rates
from tunery.models.sources import cache
from tunery.settings import Settings
from tunery.store.bootstrap import bootstrap
from tunery.store.database import migrate, open_database, write
from tunery.store.models import insert_model
from tunery.store.tables import projects


@pytest.fixture
def taken() -> Any:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        yield listening.getsockname()[1]


@pytest.fixture
def closed() -> int:
    """A port at which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def look(what: str, home: Path, **values: Any) -> Finding:
    return LOOKS[what](Settings(home=home, **values))


def test_a_fit_machine(home: Path) -> None:
    """Every line, as a program reads it; nothing is made in home."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("TUNERY_", "OPENAI_"))}
    command = [sys.executable, "-m", "tunery", "doctor", "--home", str(home / "new"), "--json"]
    environment = clean | {"TUNERY_PORT": "0"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=580)
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    found = {each["what"]: each for each in json.loads(done.stdout)}
    assert list(found) == list(LOOKS)
    assert all(each["state"] in ("ok", "note") and each["found"] for each in found.values())
    assert all(each["advice"] for each in found.values() if each["state"] == "note")
    assert found["processor"]["details"]["operations_per_s"].keys() >= {"float32", "bfloat16"}
    assert not (home / "new").exists()


def test_rates_are_of_the_forms_that_the_processor_has() -> None:
    measured = rates.measure()
    assert ("int8" in measured.operations_per_s) == int8.is_available()
    assert (measured.byte_products is not None) == int8.is_available()
    assert measured.matmul_dtype in ("float32", "bfloat16")
    assert min(measured.read_bytes_per_s, *measured.operations_per_s.values()) > 1e6


def test_an_address_that_is_taken(home: Path, taken: int) -> None:
    found = look("address", home, port=taken)
    assert found.state == "problem"
    assert f"Port {taken} is taken" in found.advice


def test_a_home_that_cannot_be(home: Path) -> None:
    (home / "file").write_text("x")
    found = look("home", home / "file" / "below")
    assert found.state == "problem"
    assert "--home" in found.advice


@pytest.mark.parametrize(
    ("what", "values", "says"),
    [
        ("database", {"database_url": "postgresql://nobody:secret@127.0.0.1:{port}/none"}, "database_url"),
        ("engines", {"engine_urls": ["http://127.0.0.1:{port}"]}, "engine_urls"),
        ("engines", {"start_engine": False}, "start_engine"),
        ("mail", {"smtp_host": "127.0.0.1", "smtp_port": "{port}", "smtp_security": "none"}, "refused"),
        (
            "files",
            {
                "blob_url": "s3://bucket/prefix",
                "s3_endpoint": "http://127.0.0.1:{port}",
                "s3_access_key_id": "key",
                "s3_secret_access_key": "secret",
            },
            "s3_endpoint",
        ),
    ],
)
def test_what_is_not_there(home: Path, closed: int, what: str, values: dict[str, Any], says: str) -> None:
    filled = json.loads(json.dumps(values).replace("{port}", str(closed)))
    found = look(what, home, **filled)
    assert found.state == "problem"
    assert says in found.advice
    assert "secret" not in found.found + found.advice


def test_a_model_whose_base_has_changed_is_named(home: Path, tiny_model_dir: Path) -> None:
    """And one on the same weights is not; without a database nothing is made."""
    assert look("models", home).found == "None yet"
    settings = Settings(home=home)
    assert not Path(settings.resolved_database_url.removeprefix("sqlite:///")).exists()
    source = f"path:{tiny_model_dir}"
    hashes = cache.hashes_of(cache.ensure(source, settings.models_dir))
    engine = open_database(settings)
    migrate(engine)
    with write(engine) as conn:
        bootstrap(conn, clock=time.time, key=None)
        owned = {"source": source, "project_id": conn.execute(select(projects.c.id)).scalar_one()}
        for name, known in (("ft:same", hashes), ("ft:other", {"model.safetensors": "0" * 64}), ("ft:unknown", None)):
            insert_model(conn, fine_tuned_model(name=name, base_sha256=known, **owned))
    engine.dispose()
    found = look("models", home)
    assert (found.state, found.details) == ("note", {"changed": ["ft:other"]})
    assert "1 of 3" in found.found


def test_a_server_that_takes_mail(home: Path, closed: int) -> None:
    class Nothing:
        """No mail may come: the doctor only greets."""

    controller = Controller(Nothing(), hostname="127.0.0.1", port=closed)
    controller.start()
    try:
        assert look("mail", home, smtp_host="127.0.0.1", smtp_port=closed, smtp_security="none").state == "ok"
        found = look("mail", home, smtp_host="127.0.0.1", smtp_port=closed)  # it offers no STARTTLS
        assert found.state == "problem"
        assert "STARTTLS" in found.advice
    finally:
        controller.stop()
