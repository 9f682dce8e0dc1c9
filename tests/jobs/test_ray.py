"""Jobs on a real Ray cluster of two nodes, with the real trainer and a tiny random model."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy import select

from tests.jobs.conftest import ROWS, Site, open_site
from tests.jobs.test_training import losses
from tests.jobs.waiting import wait_for
from tests.ray_cluster import ADDRESS, RayCluster
from tunery.domain.hyperparameters import Hyperparameters
from tunery.domain.jobs import FineTuningJob, JobStatus
from tunery.jobs import verbs
from tunery.jobs.hold import TRAINER
from tunery.jobs.ray_cluster import connect
from tunery.settings import Settings, SettingsError
from tunery.store import events, models
from tunery.store.database import read
from tunery.store.tables import usage_records

SHORT = Hyperparameters(n_epochs=2, batch_size=4)
LONG = Hyperparameters(n_epochs=50, batch_size=1)  # a kill comes in its middle


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The address of the folder in which worker and nodes keep files."""
    return (tmp_path_factory.mktemp("shared") / "blobs").as_uri()


@pytest.fixture(scope="module")
def cluster(shared: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayCluster]:
    cluster = RayCluster(tmp_path_factory.mktemp("cluster"), {"TUNERY_BLOB_URL": shared})
    try:
        cluster.start("one", "two")
        yield cluster
    finally:
        cluster.close()


@pytest.fixture
def on_ray(base_settings: Settings, migrated_database: Path, shared: str) -> Iterator[Site]:
    for file in (migrated_database, migrated_database.with_name("secrets.key")):
        shutil.copy(file, base_settings.home)
    changed = {"runner": "ray", "ray_address": ADDRESS, "blob_url": shared}
    with open_site(base_settings.model_copy(update=changed)) as site:
        yield site


@contextmanager
def worker(site: Site, cluster: RayCluster) -> Iterator[subprocess.Popen[bytes]]:
    """The worker's own process, inside the cluster's network."""
    command = [sys.executable, "-m", "tunery.launch.worker"]
    with (site.settings.home / "worker.log").open("ab") as log:
        process = cluster.run(command, site.settings.as_environment(), stdout=log, stderr=log)
    try:
        yield process
    finally:
        process.terminate()
        process.wait(30)


def test_jobs_train_side_by_side_and_come_to_what_a_child_process_comes_to(on_ray: Site, cluster: RayCluster) -> None:
    rows = on_ray.add_file(ROWS)
    chosen = {"hyperparameters": SHORT, "training_file": rows, "validation_file": rows}
    with on_ray.worker(TRAINER):
        expected = on_ray.wait(on_ray.create(seed=1, **chosen).id, timeout_s=90)
    with worker(on_ray, cluster):
        jobs = [on_ray.create(seed=seed, **chosen) for seed in (1, 2)]
        done = [on_ray.wait(job.id, timeout_s=120) for job in jobs]
    assert [job.status for job in done] == [JobStatus.SUCCEEDED] * 2, on_ray.messages(jobs[0].id)
    assert {job.details.node for job in done} == {"one", "two"}
    assert losses(on_ray, done[0].id) == losses(on_ray, expected.id)
    assert weights(on_ray, done[0]) == weights(on_ray, expected) != weights(on_ray, done[1])


def test_job_over_both_nodes_comes_to_what_one_trainer_comes_to(on_ray: Site, cluster: RayCluster) -> None:
    rows = on_ray.add_file(ROWS)
    chosen = {"hyperparameters": SHORT, "training_file": rows, "validation_file": rows, "seed": 1}
    with on_ray.worker(TRAINER):
        expected = on_ray.wait(on_ray.create(**chosen).id, timeout_s=90)
    on_ray.settings = on_ray.settings.model_copy(update={"ray_trainers": 2})
    with worker(on_ray, cluster):
        done = on_ray.wait(on_ray.create(**chosen).id, timeout_s=120)
    assert done.status is JobStatus.SUCCEEDED, on_ray.messages(done.id)
    assert done.details.node == "one, two"
    assert done.trained_tokens == expected.trained_tokens
    # In bf16; that the sums are exact is shown in fp32, where trainers are tested.
    assert losses(on_ray, done.id) == pytest.approx(losses(on_ray, expected.id), abs=0.02)


def weights(site: Site, job: FineTuningJob) -> bytes:
    with read(site.engine) as conn:
        model = models.list_models_of_job(conn, job.id)[0]
    return site.blobs.read(f"{model.blob}/adapter_model.safetensors")


def test_job_of_a_node_that_is_killed_goes_on_on_the_other_and_is_paid_for_once(
    on_ray: Site, cluster: RayCluster
) -> None:
    job = on_ray.create(hyperparameters=LONG, seed=1)
    with worker(on_ray, cluster):
        wait_for(lambda: on_ray.job(job.id).details.state, 90)
        first = on_ray.job(job.id).details.node
        cluster.kill(first or "")
        done = on_ray.wait(job.id, timeout_s=120)
    cluster.start(first or "")
    assert done.status is JobStatus.SUCCEEDED, on_ray.messages(job.id)
    assert {first, done.details.node} == {"one", "two"}
    assert any(f"the node {first} of the cluster was lost" in message for message in on_ray.messages(job.id))
    steps = [event.data["step"] for event in on_ray.events(job.id) if event.type == "metrics" and event.data]
    assert steps == list(range(1, (done.total_steps or 0) + 1))
    with read(on_ray.engine) as conn:
        (record,) = conn.execute(select(usage_records).where(usage_records.c.kind == "training")).all()
    assert record.trained_tokens == done.trained_tokens == 50 * (done.details.num_tokens or 0)


def test_pause_and_cancel_reach_the_node(on_ray: Site, cluster: RayCluster) -> None:
    job = on_ray.create(hyperparameters=LONG, seed=1)
    with worker(on_ray, cluster):
        on_ray.wait_for_step(job.id, 3, timeout_s=90)
        on_ray.verb(verbs.pause_job, job.id)
        paused = on_ray.wait(job.id, JobStatus.PAUSED)
        assert paused.status is JobStatus.PAUSED
        assert paused.details.state is not None
        assert paused.details.state.step >= paused.step >= 3, "what was trained until the pause is kept"
        assert cluster.trainers("one") == cluster.trainers("two") == []
        on_ray.verb(verbs.resume_job, job.id)
        on_ray.wait_for_step(job.id, paused.step + 3, timeout_s=90)
        assert f"continues from step {paused.details.state.step}" in " ".join(on_ray.messages(job.id))
        on_ray.verb(verbs.cancel_job, job.id)
        wait_for(lambda: True if cluster.trainers("one") == cluster.trainers("two") == [] else None, 10)
    assert on_ray.job(job.id).status is JobStatus.CANCELLED
    assert cluster.workdirs(job.id) == []


def test_trainers_end_with_a_worker_that_is_killed_and_the_next_goes_on(on_ray: Site, cluster: RayCluster) -> None:
    on_ray.settings = on_ray.settings.model_copy(update={"ray_trainers": 2})
    job = on_ray.create(hyperparameters=LONG, seed=1)
    with worker(on_ray, cluster) as process:
        wait_for(lambda: on_ray.job(job.id).details.state, 90)
        process.kill()
        wait_for(lambda: True if cluster.trainers("one") == cluster.trainers("two") == [] else None, 20)
    with worker(on_ray, cluster):
        wait_for(lambda: True if cluster.trainers("one") and cluster.trainers("two") else None, 60)
        cluster.trainers("two")[0].kill()
        done = on_ray.wait(job.id, timeout_s=120)
    assert done.status is JobStatus.SUCCEEDED, on_ray.messages(job.id)
    assert any("ended unexpectedly" in message for message in on_ray.messages(job.id))
    steps = [event.data["step"] for event in on_ray.events(job.id) if event.type == "metrics" and event.data]
    assert steps == list(range(1, (done.total_steps or 0) + 1))


def test_log_of_a_trainer_that_failed_arrives(on_ray: Site, cluster: RayCluster) -> None:
    with worker(on_ray, cluster):
        first = on_ray.wait(on_ray.create(hyperparameters=SHORT).id, timeout_s=90)
        with read(on_ray.engine) as conn:
            model = models.list_models_of_job(conn, first.id)[0]
        on_ray.blobs.put(f"{model.blob}/adapter_model.safetensors", b"no tensors")
        job = on_ray.create(hyperparameters=SHORT, model=first.fine_tuned_model)
        done = on_ray.wait(job.id, timeout_s=90)
    assert done.error is not None
    assert done.error.code == "model_not_trainable"
    with read(on_ray.engine) as conn:
        found = events.find_trainer_log(conn, job.id)
    assert found is not None
    assert "the job failed\n  Traceback" in found[0]


def test_job_waits_for_a_node_with_room_and_can_be_cancelled_meanwhile(on_ray: Site, cluster: RayCluster) -> None:
    on_ray.settings = on_ray.settings.model_copy(update={"ray_cpus": 2})
    job = on_ray.create(hyperparameters=SHORT)
    with worker(on_ray, cluster):
        wait_for(lambda: True if "Waiting until nodes" in on_ray.messages(job.id)[-1] else None, 60)
        on_ray.verb(verbs.pause_job, job.id)
        assert on_ray.wait(job.id, JobStatus.PAUSED).status is JobStatus.PAUSED


def test_node_that_keeps_files_elsewhere_is_named(on_ray: Site, cluster: RayCluster, tmp_path: Path) -> None:
    elsewhere = on_ray.settings.model_copy(update={"blob_url": (tmp_path / "elsewhere").as_uri()})
    with open_site(elsewhere) as site:
        job = site.create(hyperparameters=SHORT)
        with worker(site, cluster):
            done = site.wait(job.id, timeout_s=60)
    assert done.error is not None
    assert "does not keep files where this server does" in done.error.message


def test_without_the_package_it_is_said_how_it_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(SettingsError, match=r"pip install 'tunery\[ray\]'"):
        connect("auto")


@pytest.mark.parametrize("command", [["tunery.launch.worker"], ["tunery", "serve"], ["tunery", "doctor"]])
def test_without_a_cluster_nothing_starts(base_settings: Settings, command: list[str]) -> None:
    settings = base_settings.model_copy(update={"runner": "ray", "ray_address": ADDRESS})
    environment = {**os.environ, **settings.as_environment()}
    ended = subprocess.run(
        [sys.executable, "-m", *command], env=environment, capture_output=True, text=True, timeout=60
    )
    assert ended.returncode == 1
    assert "there is no cluster at ray_address" in " ".join((ended.stderr + ended.stdout).split())
