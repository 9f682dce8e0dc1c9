from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext

from tests.dashboard.browsing import Visitor
from tests.dashboard.stand import Stand


@pytest.fixture(scope="session")
def stand(tmp_path_factory: pytest.TempPathFactory, base_model_dir: Path) -> Iterator[Stand]:
    """The web process alone: no worker, no engine."""
    stand = Stand(tmp_path_factory.mktemp("dashboard"), model_cache=base_model_dir.parent)
    stand.start_web()
    yield stand
    stand.stop_all()


@pytest.fixture
def visitor(browser: Browser, stand: Stand) -> Iterator[Visitor]:
    """Not signed in. At the end nothing may have gone wrong in the browser, and nothing may have left the machine."""
    yield from visit(browser, stand.url)


FREE: dict[str, list[BrowserContext]] = {}  # contexts by what they were made with: their caches hold our scripts


def visit(browser: Browser, url: str, *, locale: str = "en-US", **options: object) -> Iterator[Visitor]:
    """A visitor without a cookie; nothing else of ours is kept in a browser."""
    free = FREE.setdefault(f"{locale} {options}", [])
    made = partial(browser.new_context, viewport={"width": 1280, "height": 900}, locale=locale)
    context = free.pop() if free else made(**options)  # type: ignore[arg-type]
    visitor = Visitor(url, context)
    yield visitor
    for page in context.pages:
        page.close()
    context.clear_cookies()
    context.clear_permissions()
    free.append(context)
    assert visitor.errors == []
    assert visitor.strangers == []


@pytest.fixture(scope="session")
def tiny_catalog(tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base that trains and answers within seconds."""
    path = tmp_path_factory.mktemp("catalog") / "catalog.toml"
    path.write_text(
        f'[bases.tiny]\nsource = "path:{tiny_model_dir}"\ncontext_length = 2048\nlearning_rate = 5e-3\n'
        'lora_rank = 4\nlora_alpha = 8\n\n[[models]]\nname = "tiny"\nbase = "tiny"\n'
    )
    return path


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, tiny_catalog: Path, tiny_model_dir: Path) -> Iterator[Stand]:
    """All there is: an engine, the web process and a worker, on the random model."""
    stand = Stand(tmp_path_factory.mktemp("server"), catalog=tiny_catalog)
    stand.start_engine(f"path:{tiny_model_dir}")
    stand.start_web()
    stand.start_worker()
    yield stand
    stand.stop_all()
