"""SECURITY.md names tests: each of them exists and holds tests."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
ROWS = [line for line in (ROOT / "SECURITY.md").read_text().split("\n") if line.startswith("| ")][1:]


def test_every_row_names_tests_that_exist() -> None:
    assert len(ROWS) > 10
    for row in ROWS:
        named = [ROOT / path for path in re.findall(r"`(tests/[^`]+)`", row)]
        assert named, row
        for path in named:
            assert path.is_file() and "def test_" in path.read_text(), path
