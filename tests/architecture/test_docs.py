"""What the docs say of the tree is there: files that moved take their mention along."""

import re
from functools import cache
from pathlib import Path

import pytest

from tunery.training.protocol import Workdir

ROOT = Path(__file__).parents[2]
PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
A_FILE = re.compile(r"`((?:[\w-]{1,40}/){0,8}[\w-]{1,60}\.(?:py|json|toml|md|js|mjs|css|sh|txt|jinja))`")
A_FOLDER = re.compile(r"`((?:[\w-]{1,40}/){1,8})`")
A_LINK = re.compile(r"\]\(([^)#:]{1,200})(?:#[^)]{0,80})?\)")
IN_THE_TREE = re.compile(r"([a-z_0-9]{1,20}/|[a-z_]{1,20}\.py)(?=\s)")
# Of an installation and of a model, not of this tree.
ELSEWHERE = re.compile(r"(tunery\.toml|[\w-]+\.json|(init|state|checkpoints/step-N|blobs|logs)/)$")


@cache
def _tree() -> set[str]:
    """Every file and folder (with a `/` behind it) by its whole path, which begins with a `/`."""
    kept = ("src", "tests", "docs", "scripts", "benchmarks", "examples", ".ci")
    below = [path for name in kept for path in (ROOT / name, *(ROOT / name).rglob("*"))]
    return {f"/{path.relative_to(ROOT)}{'/' if path.is_dir() else ''}" for path in (*ROOT.glob("*.*"), *below)}


def _is_there(name: str) -> bool:
    return any(path.endswith(f"/{name}") for path in _tree()) or ELSEWHERE.fullmatch(name) is not None


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_what_a_page_names_is_there(page: Path) -> None:
    text = page.read_text("utf-8")
    gone = [name for name in (*A_FILE.findall(text), *A_FOLDER.findall(text)) if not _is_there(name)]
    gone += [name for name in A_LINK.findall(text) if not (page.parent / name).exists()]
    assert not gone


def test_the_tree_of_contributing_is_this_tree() -> None:
    """Each package has its line in it, and each name of it is there."""
    drawn = (ROOT / "CONTRIBUTING.md").read_text("utf-8").split("```")[1]
    named = set(IN_THE_TREE.findall(drawn))
    assert not [name for name in named if not _is_there(name)]
    packages = {f"{path.name}/" for path in (ROOT / "src" / "tunery").iterdir() if (path / "__init__.py").exists()}
    assert packages <= named


def test_the_map_of_a_workdir_has_all_that_is_in_it() -> None:
    drawn = (ROOT / "docs" / "architecture.md").read_text("utf-8").partition("## What lies where")[2]
    named = [getattr(Workdir(Path()), name) for name, kind in vars(Workdir).items() if isinstance(kind, property)]
    assert len(named) > 8
    assert not [path.name for path in named if f"`{path.name}`" not in drawn and f"`{path.name}/`" not in drawn]


def test_a_name_that_is_gone_is_found() -> None:
    assert _is_there("store/claims.py") and _is_there("claims.py") and _is_there("store/")
    assert not _is_there("claim.py") and not _is_there("store/claimed.py") and not _is_there("stores/")
