"""A job's details as the homes of other versions hold them."""

from typing import Any

import pytest

from tunery.domain.job_details import JobDetails, SavedState, StoredCheckpoint

STORED: dict[str, Any] = {
    "num_examples": 12,
    "num_tokens": None,
    "epoch_counts": {"num_tokens": 300},
    "data_advice": [],
    "source": "path:/base",
    "progress": {"step": 4, "total_steps": 9, "epoch": 2, "eta_s": 1.5},
    "checkpoints": [
        {"step": 6, "model_id": "model_2", "metrics": {}, "published": True},
        {"step": 3, "model_id": "model_1", "metrics": {"train_loss": 0.5}},
    ],
    "state": {"step": 4, "prefix": "jobs/ftjob-1/state/step-4"},
}


def test_what_the_version_before_stored_is_read() -> None:
    details = JobDetails.of(STORED)
    assert details.state == SavedState(4, "jobs/ftjob-1/state/step-4")
    assert details.checkpoints == (
        StoredCheckpoint(3, "model_1", {"train_loss": 0.5}),
        StoredCheckpoint(6, "model_2", {}, published=True),
    )
    assert (details.num_examples, details.num_tokens, details.parity) == (12, None, None)


@pytest.mark.parametrize("stored", [{}, STORED, {"state": None, "checkpoints": []}, {"imported": {"id": "ftjob-9"}}])
def test_details_come_back_as_they_were_stored(stored: dict[str, Any]) -> None:
    details = JobDetails.of(stored)
    assert JobDetails.of(details.to_json()) == details
    assert not {name for name, value in details.to_json().items() if value in (None, [], {}, ())}


def test_what_another_version_knows_is_passed_over() -> None:
    assert JobDetails.of({"colour": "red", "device": "cpu"}) == JobDetails(device="cpu")
