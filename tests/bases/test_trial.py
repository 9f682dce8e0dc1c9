"""A base is tried by the trainer of jobs and by an engine of its own before it can be chosen for a job."""

from pathlib import Path

import pytest

from tests.models.families import UNDESCRIBED, UNKNOWN
from tunery.bases.examine import Unusable
from tunery.bases.trial import Tried, try_out
from tunery.models.catalog import Catalog
from tunery.settings import Settings


def tried(model_dir: Path, home: Path) -> Tried:
    settings = Settings(home=home)
    return try_out(model_dir, f"path:{model_dir}", settings, Catalog.of(settings), lambda *_: None, lora_rank=4)


@pytest.mark.parametrize("name", ["pythia", "starcoder 2, with windows"])
def test_trainer_and_engine_agree_on_what_is_not_described(name: str, home: Path, tmp_path: Path) -> None:
    UNDESCRIBED[name].write(tmp_path)
    found = tried(tmp_path, home)
    assert found.is_served
    assert found.difference is not None and found.difference < 0.05


def test_what_transformers_computes_otherwise_is_refused_with_the_reason(home: Path, tmp_path: Path) -> None:
    UNKNOWN["bamba, with states"].write(tmp_path)
    with pytest.raises(Unusable, match="computes another thing than transformers"):
        tried(tmp_path, home)
