from pathlib import Path

import pytest
import torch

from tests.training.conftest import MakeModel
from tunery.models.memory import activation_bytes
from tunery.training import memory
from tunery.training.optimizer import AdamW
from tunery.training.state import Measured, Progress, load_measured, load_state, save_measured, save_state


def test_a_resumed_job_goes_on_with_what_was_measured_at_its_beginning(make_model: MakeModel, tmp_path: Path) -> None:
    model = make_model(dtype=torch.bfloat16, matmul_dtype=torch.float32)
    optimizer = AdamW(model.parameters())
    assert load_measured(tmp_path) is None
    save_measured(tmp_path, Measured(torch.bfloat16, 4096))
    assert load_measured(tmp_path) == Measured(torch.bfloat16, 4096), "also when it died before its first state"
    save_state(tmp_path, model, optimizer, Progress(step=3, max_tokens=1024))
    assert load_measured(tmp_path) == Measured(torch.float32, 1024), "halved meanwhile"
    progress = load_state(tmp_path, model, optimizer)
    assert progress is not None and progress.step == 3


@pytest.mark.parametrize(
    ("free_tokens", "before", "expected"),
    [
        (1_000_000, None, 4096),
        (2000, None, 700),  # SHARE of it
        (10, None, 256),
        (5000, 4096, 4096),  # less is free than at the beginning: as before
        (1_000_000, 1024, 1024),  # more is free, but it was halved
        (2000, 4096, 2000),  # it does not fit any more
        (10, 4096, 256),
        (10, 64, 64),
    ],
)
def test_micro_batches_stay_as_they_were_as_long_as_they_fit(
    make_model: MakeModel, monkeypatch: pytest.MonkeyPatch, free_tokens: int, before: int | None, expected: int
) -> None:
    config = make_model().config
    monkeypatch.setattr(memory, "free_bytes", lambda _: free_tokens * activation_bytes(config))
    assert memory.micro_batch_tokens(config, "cpu", before) == expected
