"""The manual's table of settings is the code's."""

import importlib.util
from pathlib import Path

from tunery.settings import Settings

SCRIPT = Path(__file__).parents[2] / "scripts" / "settings_reference.py"


def test_operations_page_lists_every_setting_as_it_is() -> None:
    spec = importlib.util.spec_from_file_location("settings_reference", SCRIPT)
    assert spec is not None and spec.loader is not None
    reference = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(reference)
    page = reference.PAGE.read_text("utf-8")
    assert page == reference.page_with(reference.table()), "run: python scripts/settings_reference.py"
    assert all(f"| `{name}` |" in page for name in Settings.model_fields)
