"""Two machines that share nothing but Postgres and S3."""

from pathlib import Path
from typing import Any

import pytest

from tests.jobs.conftest import open_site
from tests.jobs.test_worker import SCRIPTED, script
from tunery.domain.clock import system_clock
from tunery.domain.jobs import JobStatus
from tunery.settings import Settings
from tunery.store import models
from tunery.store.bootstrap import bootstrap
from tunery.store.database import connect, read, write


@pytest.fixture
def shared(base_settings: Settings, postgres_url: str, s3_settings: dict[str, Any]) -> Settings:
    engine = connect(postgres_url)
    with write(engine) as conn:
        bootstrap(conn, clock=system_clock, key="sk-test-key")
    engine.dispose()
    return Settings(**{**base_settings.model_dump(), "database_url": postgres_url, **s3_settings})


def test_job_given_back_by_one_machine_is_finished_by_another(
    shared: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script(monkeypatch, step_s=0.05, steps=90)
    with open_site(shared) as first:
        job = first.create()
        with first.worker(SCRIPTED):
            first.wait_for_step(job.id, 40)
        assert first.job(job.id).status is JobStatus.QUEUED
    elsewhere = shared.model_copy(update={"home": tmp_path / "elsewhere"})
    with open_site(elsewhere) as second:
        with second.worker(SCRIPTED):
            done = second.wait(job.id)
        assert done.status is JobStatus.SUCCEEDED, done.error
        assert done.details.metrics["train_loss"] == pytest.approx(sum(range(91)) / 100)
        with read(second.engine) as conn:
            kept = models.list_models_of_job(conn, job.id)
        assert [model.step_number for model in kept] == [90, 60, 30]
        assert second.blobs.read(f"{kept[2].blob}/adapter_model.safetensors") == b"weights of step 30"
        assert second.blobs.list("jobs") == ()
