"""The wandb integration with the real package, offline."""

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from tests.jobs.conftest import Site
from tests.jobs.test_worker import SCRIPTED
from tunery.domain.jobs import JobStatus

INTEGRATIONS = [{"type": "wandb", "wandb": {"project": "marv", "name": "first", "tags": ["mine"]}}]


@pytest.fixture
def wandb_site(site: Site, monkeypatch: pytest.MonkeyPatch) -> Site:
    monkeypatch.setenv("WANDB_MODE", "offline")
    site.settings = site.settings.model_copy(update={"wandb_api_key": SecretStr("0" * 40)})
    return site


def test_steps_and_outcome_are_reported_to_a_run_with_the_jobs_id(wandb_site: Site) -> None:
    job = wandb_site.create(integrations=INTEGRATIONS)
    with wandb_site.worker(SCRIPTED):
        done = wandb_site.wait(job.id)
    assert done.status is JobStatus.SUCCEEDED
    assert not any("wandb" in message for message in wandb_site.messages(job.id))
    records = _records(wandb_site.settings.home / "wandb", job.id)
    run = next(record.run for record in records if record.HasField("run"))
    assert (run.run_id, run.project, run.display_name) == (job.id, "marv", "first")
    assert {"openai/finetune", f"openai/{job.id}", "mine"} <= set(run.tags)
    losses = [
        json.loads(item.value_json)
        for record in records
        if record.HasField("history")
        for item in record.history.item
        if (item.key or next(iter(item.nested_key))) == "train_loss"
    ]
    assert losses == pytest.approx([sum(range(step + 1)) / 100 for step in range(1, 31)])


def test_service_that_fails_is_told_of_and_ends_no_job(wandb_site: Site) -> None:
    job = wandb_site.create(integrations=[{"type": "wandb", "wandb": {"project": "no/such/name"}}])
    with wandb_site.worker(SCRIPTED):
        done = wandb_site.wait(job.id)
    assert done.status is JobStatus.SUCCEEDED
    assert any("wandb integration does not work" in message for message in wandb_site.messages(job.id))


def _records(folder: Path, job_id: str) -> list[Any]:
    from wandb.proto import wandb_internal_pb2

    (file,) = folder.glob(f"offline-run-*/run-{job_id}.wandb")
    records = []
    for data in _log_entries(file.read_bytes()):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        records.append(record)
    return records


def _log_entries(log: bytes) -> Iterator[bytes]:
    """LevelDB's log format after 7 bytes of header: blocks of 32 KiB, fragments of checksum, length, kind, data."""
    block, whole, first_or_only, last_or_only = 32 * 1024, b"", (1, 2), (1, 4)
    position = 7
    while position + 7 <= len(log):
        if block - position % block < 7:
            position += block - position % block
            continue
        _, length, kind = struct.unpack("<IHB", log[position : position + 7])
        fragment = log[position + 7 : position + 7 + length]
        position += 7 + length
        whole = fragment if kind in first_or_only else whole + fragment
        if kind in last_or_only:
            yield whole
