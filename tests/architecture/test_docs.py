"""What docs for developers say of the tree is there: files that moved take their mention along."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [
    ROOT / "CONTRIBUTING.md",
    *(ROOT / "docs" / "howto").glob("*.md"),
    *(ROOT / "docs" / name for name in ("architecture.md", "glossary.md", "lab-notes.md")),
    *(ROOT / "docs" / "decisions").glob("*.md"),
]
A_FILE = re.compile(r"`((?:[a-z_0-9]{1,40}/)(?:[a-z_0-9/]{1,80})\.(?:py|json|toml|md))`")
A_LINK = re.compile(r"\]\(([^)#:]{1,200})(?:#[^)]{0,80})?\)")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_files_that_a_page_names_are_there(page: Path) -> None:
    text = page.read_text("utf-8")
    gone = [name for name in A_FILE.findall(text) if not any((base / name).exists() for base in _bases())]
    gone += [name for name in A_LINK.findall(text) if not (page.parent / name).exists()]
    assert not gone


def _bases() -> tuple[Path, ...]:
    return ROOT, ROOT / "src", ROOT / "src" / "tunery"
