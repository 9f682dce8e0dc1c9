"""A real `tunery serve` in processes of its own."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from openai import OpenAI

REPOSITORY = Path(__file__).parents[2]
MARV = REPOSITORY / "examples" / "marv.jsonl"
BASE = "gpt-4o-mini-2024-07-18"


@dataclass(frozen=True)
class Served:
    process: subprocess.Popen[str]
    home: Path
    base_url: str
    key: str  # of the first start

    def client(self) -> OpenAI:
        return OpenAI(base_url=self.base_url, api_key=self.key, _strict_response_validation=True, max_retries=0)

    def environment(self) -> dict[str, str]:
        return {**clean_environment(self.home), "OPENAI_BASE_URL": self.base_url, "OPENAI_API_KEY": self.key}

    def tunery(self, *arguments: str, timeout_s: float = 120) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "tunery", *arguments],
            env=self.environment(),
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=timeout_s,
        )


def clean_environment(home: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("TUNERY_", "OPENAI_"))}
    return {**kept, "TUNERY_HOME": str(home)}


def serve(home: Path, key: str = "", **settings: str) -> Served:
    """Start on any free port and wait for the banner. `key` is the one that an earlier start of this home printed.
    The umask is as careless as can be: what the server keeps must be its user's alone all the same."""
    with (home / "serve.err").open("a") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", "tunery", "serve", "--port", "0"],
            env={**clean_environment(home), **settings},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            umask=0,
        )
    assert process.stdout is not None
    banner = ""
    while "Data " not in banner or (not key and "Key " not in banner):
        line = process.stdout.readline()
        if not line:
            raise AssertionError(f"no server:\n{banner}{(home / 'serve.err').read_text()}")
        banner += line
    url = re.search(r"API +(\S+)", banner)
    first = re.search(r"Key +(sk-\S+)", banner)
    assert url is not None
    return Served(process, home, url[1], key or (first[1] if first else ""))


def stop(served: Served) -> None:
    with served.process:  # closes what it wrote to, too
        served.process.send_signal(signal.SIGTERM)
        try:
            served.process.wait(60)
        finally:
            served.process.kill()


@pytest.fixture(scope="session")
def tiny_settings(tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """OpenAI's names on random two-layer models: what is tested here is the processes, not what they learn."""
    from tests import tiny_model
    from tests.tiny_encoder import write_tiny_encoder

    folder, encoder = tmp_path_factory.mktemp("catalog"), tmp_path_factory.mktemp("encoder")
    write_tiny_encoder(encoder)
    settings = tiny_model.tiny_settings(folder, tiny_model_dir, BASE)
    with Path(settings["TUNERY_CATALOG"]).open("a") as catalog:
        catalog.write(
            f'[bases.tiny-encoder]\nsource = "path:{encoder}"\ncontext_length = 8192\ndimensions = 384\n\n'
            '[[models]]\nname = "text-embedding-3-small"\nbase = "tiny-encoder"\n'
        )
    return settings


@pytest.fixture(scope="session")
def served(tiny_settings: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """One server for every test that leaves it as it is."""
    home = tmp_path_factory.mktemp("home")
    leave_open(home)
    running = serve(home, **tiny_settings)
    yield running
    stop(running)


OLD = (
    "blobs/files/file-old",
    "blobs/adapters/a/old.safetensors",
    "logs/api.log.1",
    "outbox/old.eml",
    "work/j/train.jsonl",
)


def leave_open(home: Path) -> None:
    """What a version that did not care left behind: readable by everybody on the machine."""
    for name in OLD:
        path = home / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("old")
    for path in (home, *home.rglob("*")):
        path.chmod(0o777 if path.is_dir() else 0o666)


@pytest.fixture
def start(tiny_settings: dict[str, str], home: Path) -> Iterator[Callable[..., Served]]:
    """Starts servers of this test's own home."""
    started: list[Served] = []

    def start_one(key: str = "", **settings: str) -> Served:
        started.append(serve(home, key, **{**tiny_settings, **settings}))
        return started[-1]

    yield start_one
    for one in started:
        stop(one)
