"""Fixtures shared by every area: a home of one's own, and no settings from the outside."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest


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
