"""`tunery improve` on the ticket example, with the real models: what it says of rows and of more rows is true."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.improve import NUM_CHANGED, NUM_SHOWN, with_changed_labels
from tests.e2e.conftest import Served, serve, stop
from tests.e2e.test_improve import improve
from tunery.domain.files import example_file

pytestmark = pytest.mark.e2e

# Whose last one stands at place 12, of 30: room for a processor that rounds otherwise.
SEED = 0


@pytest.fixture
def real(home: Path, base_model_dir: Path, embedding_model_dir: Path) -> Iterator[Served]:
    assert base_model_dir.parent == embedding_model_dir.parent
    served = serve(home, TUNERY_MODEL_CACHE=str(base_model_dir.parent))
    yield served
    stop(served)


@pytest.mark.timeout(1800)
def test_changed_labels_are_found_and_the_curve_foretells_the_whole(real: Served, tmp_path: Path) -> None:
    lines, changed = with_changed_labels(
        example_file("tickets_train.jsonl").read_text("utf-8").strip().split("\n"), SEED
    )
    training = tmp_path / "tickets.jsonl"
    training.write_text("\n".join(lines), "utf-8")
    held_back = str(example_file("tickets_test.jsonl"))
    options = ("--validation", held_back, "--seed", "1", "--watch", "--json")
    created = real.tunery("jobs", "create", str(training), *options, timeout_s=900)
    assert created.returncode == 0, created.stderr
    job_id = json.loads(created.stdout.strip().split("\n")[-1])["id"]

    doubted = improve(real, job_id, "rows", "--yes")["rows"]
    assert len(changed) == NUM_CHANGED and len(doubted) == NUM_SHOWN
    places = {doubt["line"]: place for place, doubt in enumerate(doubted, 1) if doubt["line"] in changed}
    assert set(places) == changed, places

    curve: dict[str, Any] = improve(real, job_id, "curve", "--yes")  # the halves are there
    assert [part["num_rows"] for part in curve["parts"]] == [42, 42, 84, 84, 168]
    assert curve["expected"]["low"] <= curve["parts"][-1]["loss"] <= curve["expected"]["high"]
