"""Lines of data end at a line feed alone: `splitlines` would cut a text in two at U+2028, U+2029 or U+0085."""

from pathlib import Path

SOURCES = Path(__file__).parents[2] / "src" / "tunery"
# Logs, error texts and files of the system, of which a line is shown or looked up.
NO_DATA = {
    "jobs/hold.py",
    "metering/prices.py",
    "models/sources/pypi.py",
    "serving/constraints.py",
}


def test_data_is_not_cut_at_other_line_ends() -> None:
    found = {
        path.relative_to(SOURCES).as_posix()
        for path in SOURCES.rglob("*.py")
        if ".splitlines(" in path.read_text("utf-8")
    }
    assert found <= NO_DATA, sorted(found - NO_DATA)
