"""A job in a real process: killed, paused, cancelled, out of disk. Its loss curve is that of an undisturbed one.

Each is one process of its own that can be killed (see process.py).
"""

import ctypes
import json
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, TypeVar

import pytest

from tests.training.process import start
from tunery.models.adapter_config import LoraConfig
from tunery.training.job import NUM_SAMPLES
from tunery.training.protocol import (
    CheckpointSaved,
    ControlRequest,
    Failed,
    Finished,
    Message,
    Note,
    ParitySamples,
    Started,
    StepMetrics,
    Stopped,
    TrainSpec,
    Workdir,
    decode,
    read_samples,
    saved_step,
)
from tunery.training.state import load_measured, save_measured

M = TypeVar("M", bound=Message)


def finish(workdir: Workdir) -> int | None:
    process = start(workdir)
    process.join(120)
    return process.exitcode


def all_said(workdir: Workdir) -> list[Message]:
    path = workdir.root / "said.jsonl"
    lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
    messages = [decode(line) for line in lines if line.endswith(b"\n")]
    assert None not in messages
    return [message for message in messages if message is not None]


def said(workdir: Workdir, kind: type[M]) -> list[M]:
    return [message for message in all_said(workdir) if isinstance(message, kind)]


def wait_for_steps(workdir: Workdir, process: BaseProcess, count: int) -> None:
    """Until that many steps have been told of altogether."""
    deadline = time.monotonic() + 60
    while num_told(workdir) < count and process.is_alive():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def num_told(workdir: Workdir) -> int:
    """Steps; of some a trainer that goes on has told again."""
    return len({message.step for message in said(workdir, StepMetrics)})


def curve(workdir: Workdir) -> dict[int, tuple[float, float | None]]:
    """Train and validation loss by step; a step that was done twice must have come out the same."""
    found: dict[int, tuple[float, float | None]] = {}
    for message in said(workdir, StepMetrics):
        values = (message.train_loss, message.valid_loss)
        assert found.setdefault(message.step, values) == values
    return found


def write_rows(path: Path, count: int, seed: int) -> None:
    rng = random.Random(seed)
    colours = ["red", "green", "blue", "grey"]
    with path.open("w") as file:
        for _ in range(count):
            colour = rng.choice(colours)
            messages = [
                {"role": "system", "content": "Name the colour."},
                {"role": "user", "content": f"A {colour} house no. {rng.randrange(1000)}"},
                {"role": "assistant", "content": colour},
            ]
            file.write(json.dumps({"messages": messages}) + "\n")


@pytest.fixture(scope="module")
def spec(tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainSpec:
    folder = tmp_path_factory.mktemp("data")
    write_rows(folder / "train.jsonl", 40, seed=1)
    write_rows(folder / "valid.jsonl", 8, seed=2)
    return TrainSpec(
        job_id="ftjob-test",
        model_dir=tiny_model_dir,
        train_file=folder / "train.jsonl",
        valid_file=folder / "valid.jsonl",
        n_epochs=4,
        batch_size=4,
        learning_rate=1e-2,
        lora=LoraConfig(rank=4, alpha=8, dropout=0.1),
        state_interval_s=5.0,
        threads=1,
    )


def workdir_of(spec: TrainSpec, folder: Path, like: Workdir | None = None) -> Workdir:
    """`like`: a job to be compared with, on whose machine was measured the same."""
    folder.mkdir()
    workdir = Workdir(folder)
    spec.save(workdir)
    if like is not None:
        measured = load_measured(like.state)
        assert measured is not None
        save_measured(workdir.state, measured)
    return workdir


@pytest.fixture(scope="module")
def undisturbed(spec: TrainSpec, tmp_path_factory: pytest.TempPathFactory) -> Workdir:
    """The workdir of a job that ran to its end; tests only read it."""
    workdir = workdir_of(spec, tmp_path_factory.mktemp("jobs") / "undisturbed")
    assert finish(workdir) == 0
    return workdir


def test_killed_at_ten_random_points_the_curve_is_the_same(
    spec: TrainSpec, undisturbed: Workdir, tmp_path: Path
) -> None:
    spec = replace(spec, state_interval_s=0.1)  # so that steps since the last state are lost and done again
    workdir, rng = workdir_of(spec, tmp_path / "killed", undisturbed), random.Random(7)
    for kill in range(10):
        process = start(workdir)
        wait_for_steps(workdir, process, num_told(workdir) + rng.randrange(1, 4))
        time.sleep(rng.random() * 0.05)
        process.kill()
        process.join()
        assert process.exitcode == -9, f"kill {kill} came too late"
    assert finish(workdir) == 0
    assert curve(workdir) == curve(undisturbed)
    adapters = [final_adapter(w) for w in (workdir, undisturbed)]
    weights = [(folder / "adapter_model.safetensors").read_bytes() for folder in adapters]
    assert weights[0] == weights[1]


def final_adapter(workdir: Workdir) -> Path:
    return workdir.checkpoint(said(workdir, Finished)[0].step)


def test_a_job_says_what_the_worker_needs(undisturbed: Workdir) -> None:
    started = said(undisturbed, Started)[0]
    assert (started.num_examples, started.total_steps) == (40, 40)
    metrics = said(undisturbed, StepMetrics)
    assert [m.step for m in metrics] == list(range(1, 41))
    assert loss(metrics[-1]) < 0.6 * loss(metrics[0])
    assert [m.step for m in metrics if m.valid_loss is not None] == [10, 20, 30, 40]
    assert [m.step for m in metrics if m.full_valid_loss is not None] == [10, 20, 30, 40]
    assert [m.step for m in said(undisturbed, CheckpointSaved)] == [10, 20, 30, 40]
    kept = sorted(undisturbed.checkpoint(40).parent.iterdir())
    assert kept == [undisturbed.checkpoint(step) for step in (20, 30, 40)]
    finished = said(undisturbed, Finished)[0]
    assert finished.step == 40
    assert finished.trained_tokens == started.trained_tokens > 0
    samples = read_samples(undisturbed.samples)
    assert len(samples) == said(undisturbed, ParitySamples)[0].count == NUM_SAMPLES
    assert all(len(sample.logprobs) == len(sample.token_ids) - sample.start for sample in samples)


def loss(metrics: StepMetrics) -> float:
    assert metrics.train_loss is not None
    return metrics.train_loss


def test_paused_between_steps_it_goes_on_where_it_was(spec: TrainSpec, undisturbed: Workdir, tmp_path: Path) -> None:
    workdir = workdir_of(replace(spec, state_interval_s=60.0), tmp_path / "paused", undisturbed)
    process = start(workdir)
    wait_for_steps(workdir, process, 5)
    workdir.request(ControlRequest.PAUSE)
    told = len(said(workdir, StepMetrics))
    process.join(30)
    assert process.exitcode == 0
    assert len(said(workdir, StepMetrics)) <= told + 1  # the step that it was about to tell of
    assert all_said(workdir)[-1] == Stopped()
    workdir.request(None)
    done = num_told(workdir)
    assert finish(workdir) == 0
    steps = [message.step for message in said(workdir, StepMetrics)]
    assert steps == [*range(1, done + 1), *range(1, 41)]  # nothing was lost, nothing done twice; what was told, twice
    assert curve(workdir) == curve(undisturbed)


def test_it_leaves_when_told_to_end(spec: TrainSpec, tmp_path: Path) -> None:
    workdir = workdir_of(spec, tmp_path / "told")
    process = start(workdir)
    wait_for_steps(workdir, process, 3)
    process.terminate()
    process.join(30)
    assert process.exitcode == 75
    assert saved_step(workdir.state) == len(said(workdir, StepMetrics))


def test_a_fine_tune_goes_on_from_an_adapter(spec: TrainSpec, undisturbed: Workdir, tmp_path: Path) -> None:
    adapter = final_adapter(undisturbed)
    more = replace(spec, init_adapter_dir=adapter, n_epochs=1, learning_rate=1e-3, lora=LoraConfig(rank=64))
    workdir = workdir_of(more, tmp_path / "more")
    assert finish(workdir) == 0
    assert loss(said(workdir, StepMetrics)[0]) < 0.7 * loss(said(undisturbed, StepMetrics)[0])
    config = json.loads((final_adapter(workdir) / "adapter_config.json").read_text())
    assert config["r"] == 4  # the adapter's own shape, whatever the spec says


def test_the_validation_loss_that_turns_is_reported_and_ends_the_job_only_when_asked(
    spec: TrainSpec, tmp_path: Path
) -> None:
    # What the model learns makes these answers less likely, so the validation loss rises with every epoch.
    message = [{"role": "user", "content": "A red house"}, {"role": "assistant", "content": "QZQZQZQZQZ"}]
    (tmp_path / "other.jsonl").write_text(json.dumps({"messages": message}) + "\n")
    steps = {}
    for asked in (False, True):
        turned = replace(spec, valid_file=tmp_path / "other.jsonl", early_stopping=asked)
        workdir = workdir_of(turned, tmp_path / f"turned-{asked}")
        assert finish(workdir) == 0
        advice = [data for m in said(workdir, Note) if (data := m.data or {}).get("advice") == "early_stopping"]
        assert len(advice) == 1, [m.full_valid_loss for m in said(workdir, StepMetrics)]
        steps[asked] = said(workdir, StepMetrics)[-1].step
        best = advice[0]["best_step"]
    assert steps[False] == 40 > steps[True]
    assert said(workdir, Finished)[0].step == best


def test_preference_pairs_are_trained_and_their_reference_survives_a_kill(spec: TrainSpec, tmp_path: Path) -> None:
    with (tmp_path / "pairs.jsonl").open("w") as file:
        for number in range(16):
            row = {
                "input": {"messages": [{"role": "user", "content": f"Say {number}"}]},
                "preferred_output": [{"role": "assistant", "content": "yes"}],
                "non_preferred_output": [{"role": "assistant", "content": "no"}],
            }
            file.write(json.dumps(row) + "\n")
    chosen = replace(
        spec, method="dpo", train_file=tmp_path / "pairs.jsonl", valid_file=None, beta=0.5, learning_rate=3e-3
    )
    workdir = workdir_of(chosen, tmp_path / "dpo")
    process = start(workdir)
    wait_for_steps(workdir, process, 4)
    process.kill()
    process.join()
    assert finish(workdir) == 0
    metrics = said(workdir, StepMetrics)
    assert metrics[0].train_loss == pytest.approx(0.693, abs=0.01)
    assert loss(metrics[-1]) < 0.4
    assert metrics[-1].extras["train_reward_accuracy"] == 1.0
    curve(workdir)


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"method": "dpo"}, "invalid_training_file"),
        ({"max_example_tokens": 5}, "invalid_training_file"),
        ({"lora": LoraConfig(target_modules=("no_such_module",))}, "model_not_trainable"),
    ],
)
def test_what_cannot_be_trained_fails_with_a_reason(
    spec: TrainSpec, tmp_path: Path, change: dict[str, Any], code: str
) -> None:
    workdir = workdir_of(replace(spec, **change), tmp_path / "failed")
    assert finish(workdir) == 1
    failed = all_said(workdir)[-1]
    assert isinstance(failed, Failed)
    assert failed.code == code
    assert failed.message


@contextmanager
def small_disk(folder: Path, num_bytes: int) -> Iterator[None]:
    """A file system of that size at the folder; skips the test where none may be mounted."""
    libc = ctypes.CDLL(None, use_errno=True)
    folder.mkdir()
    if libc.mount(b"tmpfs", str(folder).encode(), b"tmpfs", 0, f"size={num_bytes}".encode()) != 0:
        pytest.skip("mounting a small file system is not allowed here")
    try:
        yield
    finally:
        libc.umount2(str(folder).encode(), 2)


def test_a_full_disk_fails_the_job_and_keeps_the_last_checkpoint(spec: TrainSpec, tmp_path: Path) -> None:
    folder = tmp_path / "disk"
    with small_disk(folder, 290_000):
        workdir = Workdir(folder)
        spec.save(workdir)
        assert finish(workdir) == 1
        failed = all_said(workdir)[-1]
        assert isinstance(failed, Failed)
        assert failed.code == "disk_full"
        last = said(workdir, CheckpointSaved)[-1]
        files = sorted(path.name for path in workdir.checkpoint(last.step).iterdir())
        assert files == ["adapter_config.json", "adapter_model.safetensors"]
        assert saved_step(workdir.state) is not None
