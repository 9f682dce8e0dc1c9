"""A home of the version before, with jobs in flight, opens with this one, and every job ends as it would have."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.jobs.conftest import Site, open_site
from tunery import atomic
from tunery.domain.jobs import JobStatus
from tunery.jobs import verbs
from tunery.jobs.hold import TRAINER
from tunery.kernels.matmul_dtype import choose_matmul_dtype
from tunery.settings import Settings
from tunery.store.database import migrate, open_database

ROOT = Path(__file__).parents[2]
BEFORE = "318aec5555336fe5ea338e45182c4489ff5f96c1"  # the last commit of the version before


def version_before() -> Path:
    """Its tree, from this repository's history. Kept in one place: the loops it compiles stay compiled."""
    folder = ROOT / ".cache" / "versions" / BEFORE
    if not folder.exists():
        packed = subprocess.run(["git", "archive", BEFORE], cwd=ROOT, capture_output=True)
        if packed.returncode:
            pytest.fail(f"This test needs the history (git fetch --unshallow): {packed.stderr.decode().strip()}")
        with atomic.replacing_folder(folder, unless_there=True) as part:
            subprocess.run(["tar", "-x", "-C", part], input=packed.stdout, check=True)
    return folder


@pytest.fixture
def former_home(base_settings: Settings, tiny_model_dir: Path) -> Settings:
    """The worker that made it was killed in the middle of an epoch."""
    tree, home = version_before(), base_settings.home
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TUNERY_")}
    environment["PYTHONPATH"] = os.pathsep.join((str(tree / "src"), str(tree)))
    script = Path(__file__).with_name("make_former_home.py")
    made = subprocess.run(
        [sys.executable, str(script), str(home), str(tiny_model_dir)],
        cwd=tree, env=environment, capture_output=True, text=True, timeout=1500,
    )  # fmt: skip
    assert made.returncode == -9, made.stderr[-3000:]
    return base_settings


def bound() -> float:
    """How far the losses may lie apart. A processor without bfloat16's instructions multiplies in float32; since that
    version its sums are taken in another order (kernels.mixed_product), and what is rounded to bfloat16 behind them
    tips now and then: up to 0.03 after 120 steps. A state without the optimizer's moments is off by 0.4."""
    return 1e-3 if choose_matmul_dtype(torch.bfloat16, "cpu") is torch.bfloat16 else 0.1


def losses(site: Site, job_id: str) -> list[float]:
    return [event.data["train_loss"] for event in site.events(job_id) if event.type == "metrics" and event.data]


def test_every_job_of_a_former_home_ends_as_it_would_have(former_home: Settings) -> None:
    ids: dict[str, str] = json.loads((former_home.home / "in-flight.json").read_text())
    engine = open_database(former_home)
    migrate(engine)
    engine.dispose()
    with open_site(former_home) as site:
        states = {name: site.job(job_id).status for name, job_id in ids.items()}
        assert states == {
            "whole": JobStatus.SUCCEEDED, "paused": JobStatus.PAUSED, "killed": JobStatus.RUNNING,
            "queued": JobStatus.QUEUED,
        }  # fmt: skip
        reached = {name: site.job(ids[name]).step for name in ("paused", "killed")}
        expected = losses(site, ids["whole"])
        with site.worker(TRAINER):
            site.verb(verbs.resume_job, ids["paused"])
            for name in ("paused", "killed", "queued"):
                done = site.wait(ids[name], timeout_s=400)
                assert done.status is JobStatus.SUCCEEDED, (name, done.error)
                assert done.step == done.total_steps == len(expected)
                assert losses(site, ids[name]) == pytest.approx(expected, abs=bound()), name
                assert done.trained_tokens == site.job(ids["whole"]).trained_tokens
        for name, step in reached.items():
            told = [text for text in site.messages(ids[name]) if "continues from step" in text]
            assert len(told) == 1 and 0 < int(told[0].rsplit(" ", 1)[1]) <= step, told
        assert all(site.blobs.list(f"adapters/{checkpoint}") for checkpoint in checkpoints_of(site, ids))


def checkpoints_of(site: Site, ids: dict[str, str]) -> list[str]:
    return [stored.model_id for job_id in ids.values() for stored in site.job(job_id).details.checkpoints]
