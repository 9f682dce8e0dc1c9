"""What is left behind is found, and a full disk is told as what it is."""

import contextlib
import errno
import os
import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TextIO

import pytest
from sqlalchemy import select, update

from tests.jobs.conftest import ROWS, Site
from tests.jobs.test_worker import SCRIPTED, script
from tests.jobs.waiting import wait_for
from tunery.domain.jobs import JobStatus
from tunery.jobs import janitor, verbs
from tunery.jobs.hold import JobTrainer, ProcessRunner, WorkdirBusy, lock_workdir
from tunery.jobs.resources import Resources
from tunery.jobs.runner import Inputs
from tunery.metering.prices import PriceTable
from tunery.store import models
from tunery.store.blobs import Blobs
from tunery.store.database import read, write
from tunery.store.tables import files, workers
from tunery.training.protocol import Workdir


def resources(site: Site, **changes: object) -> Resources:
    prices = PriceTable.load(site.settings.prices)
    runner = ProcessRunner(site.blobs, site.settings.models_dir)
    plain = Resources(site.settings, site.engine, site.blobs, site.catalog, prices, runner)
    return replace(plain, **changes)  # type: ignore[arg-type]


def test_what_a_paused_and_then_cancelled_job_left_is_removed(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    script(monkeypatch, step_s=0.05, steps=90)
    job = site.create()
    with site.worker(SCRIPTED):
        site.wait_for_step(job.id, 40)
        site.verb(verbs.pause_job, job.id)
        site.wait(job.id, JobStatus.PAUSED)
    assert site.blobs.list(f"jobs/{job.id}/state")
    assert site.blobs.list("adapters")
    janitor.clean(resources(site))
    assert site.blobs.list("adapters"), "a paused job needs its state still"
    site.verb(verbs.cancel_job, job.id)
    janitor.clean(resources(site))
    assert site.blobs.list("jobs") == ()
    with read(site.engine) as conn:  # the pause made models of its checkpoints
        kept = {model.blob for model in models.list_models_of_job(conn, job.id)}
    assert {path.rpartition("/")[0] for path in site.blobs.list("adapters")} == kept
    assert not (site.settings.home / "work" / job.id).exists()


def test_models_of_a_job_that_succeeded_are_kept(site: Site) -> None:
    job = site.create()
    with site.worker(SCRIPTED):
        site.wait(job.id)
    janitor.clean(resources(site))
    with read(site.engine) as conn:
        for model in models.list_models_of_job(conn, job.id):
            assert site.blobs.list(model.blob)


def test_expired_file_goes_with_its_bytes(site: Site) -> None:
    gone, kept = site.add_file(ROWS), site.add_file(ROWS)
    with write(site.engine) as conn:
        conn.execute(update(files).where(files.c.id == gone).values(expires_at=1))
    janitor.clean(resources(site))
    with read(site.engine) as conn:
        assert [row.id for row in conn.execute(select(files.c.id))] == [kept]
    assert site.blobs.list("files") == (f"files/{kept}",)


class FullDisk(ProcessRunner):
    """Starts no trainer: the disk is full when its log is opened."""

    def start(self, inputs: Inputs, workdir: Workdir, lock: TextIO) -> JobTrainer:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_full_disk_fails_the_job_with_that_reason_and_makes_room(site: Site) -> None:
    job = site.create()
    with site.worker(SCRIPTED, runner=FullDisk(site.blobs, site.settings.models_dir)):
        done = site.wait(job.id)
    assert done.error is not None
    assert done.error.code == "disk_full"
    assert "disk is full" in done.error.message
    assert list((site.settings.home / "work").iterdir()) == []


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", folder], capture_output=True)
    if mounted.returncode:
        pytest.skip("this user may not mount a small file system")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def test_blob_store_that_is_full_fails_the_job_with_that_reason(site: Site, small_disk: Path) -> None:
    blobs = Blobs.in_folder(small_disk)
    site.blobs = blobs
    job = site.create()
    with small_disk.joinpath("filler").open("wb", buffering=0) as filler, contextlib.suppress(OSError):
        while filler.write(b"x" * 4096):
            pass
    with site.worker(SCRIPTED):
        done = site.wait(job.id)
    assert done.error is not None
    assert done.error.code == "disk_full"


class Flaky(ProcessRunner):
    """The first start meets an error that passes."""

    def start(self, inputs: Inputs, workdir: Workdir, lock: TextIO) -> JobTrainer:
        if not (workdir.root / "met").exists():
            (workdir.root / "met").touch()
            raise ConnectionError("the store does not answer")
        return super().start(inputs, workdir, lock)


def test_error_that_passes_is_waited_out(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tunery.jobs.attempt.RETRY_S", 0.5)
    job = site.create()
    with site.worker(SCRIPTED, runner=Flaky(site.blobs, site.settings.models_dir, SCRIPTED)):
        done = site.wait(job.id)
    assert done.status is JobStatus.SUCCEEDED
    assert any("internal error: ConnectionError" in message for message in site.messages(job.id))


def test_folder_of_a_living_trainer_is_not_touched(tmp_path: Path) -> None:
    workdir = Workdir(tmp_path)
    with lock_workdir(workdir), pytest.raises(WorkdirBusy):
        lock_workdir(workdir, timeout_s=0.1)
    lock_workdir(workdir, timeout_s=0).close()


def test_worker_shows_that_it_lives_and_takes_itself_off_the_list(site: Site) -> None:
    def listed() -> int:
        with read(site.engine) as conn:
            return len(conn.execute(select(workers)).all())

    with site.worker(SCRIPTED):
        wait_for(lambda: True if listed() == 1 else None)
    assert listed() == 0


def test_mail_in_files_is_removed_in_time(site: Site) -> None:
    folder = site.settings.home / "outbox"
    folder.mkdir()
    for name, age_days in (("old.eml", 31), ("new.eml", 29), ("old.txt", 99)):
        (folder / name).write_text("Subject: x")
        then = time.time() - age_days * 86_400
        os.utime(folder / name, (then, then))
    janitor.clean(resources(site))
    assert sorted(path.name for path in folder.iterdir()) == ["new.eml", "old.txt"]


def test_state_of_a_failed_job_is_kept_for_its_time(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    script(monkeypatch, fault={"kind": "exit", "step": 12})
    job = site.create()
    with site.worker(SCRIPTED):
        assert site.wait(job.id).status is JobStatus.FAILED
    janitor.clean(resources(site))
    assert [path.name for path in (site.settings.home / "work" / job.id).iterdir()] == ["state"]
    assert site.blobs.list(f"jobs/{job.id}/state")
    late = time.time() + site.settings.kept_state_days * 86_400 + 60
    janitor.clean(resources(site, clock=lambda: late))
    assert not (site.settings.home / "work" / job.id).exists()
    assert site.blobs.list("jobs") == ()
    assert not site.job(job.id).can_be_resumed
