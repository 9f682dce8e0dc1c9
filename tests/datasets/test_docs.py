"""The page about datasets names every code."""

import re
from pathlib import Path

from tunery.datasets.problems import CODES
from tunery.texts import say

PAGE = Path(__file__).parents[2] / "docs" / "datasets.md"
SOURCES = Path(__file__).parents[2] / "src" / "tunery" / "datasets"


def table() -> str:
    rows = [f"| `{name}` | {severity} | {say(f'mend.{name}')} |" for name, severity in CODES.items()]
    return "\n".join(["| code | severity | what to do |", "|---|---|---|", *rows])


def test_every_problem_is_in_the_page_as_it_is_in_the_code() -> None:
    page = PAGE.read_text("utf-8")
    assert table() in page, table()


def test_every_advice_is_in_the_page() -> None:
    source = (SOURCES / "advise.py").read_text("utf-8")
    codes = set(re.findall(r'(?:Advice|_from|_sighted)\(\s*"([a-z_]+)"', source))
    assert len(codes) >= 15
    page = PAGE.read_text("utf-8")
    assert [code for code in codes if f"`{code}`" not in page] == []
