"""Another language is one file: here one that is made of the English one, each text in brackets."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from tests.dashboard.conftest import visit
from tests.dashboard.stand import Stand
from tunery import texts

REPOSITORY = Path(__file__).parents[2]
MAIL = """
from tests.notify.test_mail import parts, render, summary
print(parts(render(summary(), language="xx"))[0])
"""


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the package with one file more, and no other change."""
    folder = tmp_path_factory.mktemp("source")
    package = texts.TEXTS.parent
    shutil.copytree(package, folder / package.name, ignore=shutil.ignore_patterns("__pycache__"))
    bracketed = {key: f"[{text}]" for key, text in texts.load("en").items()}
    (folder / package.name / "texts" / "xx.json").write_text(json.dumps(bracketed))
    return folder


def run_there(source: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    paths = os.pathsep.join([str(source), str(REPOSITORY)])
    known = {**os.environ, "PYTHONPATH": paths, **environment}
    return subprocess.run([sys.executable, *arguments], env=known, cwd=source, capture_output=True, text=True)


@pytest.fixture
def stand(source: Path, tmp_path: Path, base_model_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stand]:
    monkeypatch.setenv("PYTHONPATH", str(source))
    stand = Stand(tmp_path, model_cache=base_model_dir.parent)
    stand.start_web()
    yield stand
    stand.stop_all()


def test_pages_are_read_in_it_once_it_is_chosen(browser: Browser, stand: Stand) -> None:
    for visitor in visit(browser, stand.url):
        visitor.sign_in(stand.key)
        page = visitor.go("/")
        page.locator(".side select[name=language]").select_option("[English]")
        expect(page.locator("h1")).to_have_text("[Fine-tuning]")
        expect(page.locator("html")).to_have_attribute("lang", "xx")
        page.keyboard.press("Control+k")
        page.keyboard.type("nowhere")
        expect(page.locator("#search [role=status]")).to_contain_text("[Nothing here is called “nowhere”.")


def test_mail_is_written_in_it(source: Path) -> None:
    made = run_there(source, "-c", MAIL)
    assert "[[Base model]: " in made.stdout, made.stderr


def test_the_command_line_takes_it_for_mail_and_says_which_languages_there_are(source: Path, tmp_path: Path) -> None:
    home = {"TUNERY_HOME": str(tmp_path)}
    taken = run_there(source, "-m", "tunery", "doctor", TUNERY_MAIL_LANGUAGE="xx", **home)
    assert "mail_language" not in taken.stdout + taken.stderr
    refused = run_there(source, "-m", "tunery", "doctor", TUNERY_MAIL_LANGUAGE="fr", **home)
    assert "'fr' is no language here; there are en, ja, xx" in refused.stderr
    assert refused.returncode == 1
