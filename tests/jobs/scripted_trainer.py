"""A trainer without a model: a real process that obeys the trainer's protocol, for tests of what stands around it.

Its loss is a sum over the steps so far, so that a step trained twice or left out shows at the end. SCRIPT in the
environment is a JSON object: step_s, steps, load_s and `fault` (what goes wrong, and at which step).
"""

import json
import os
import signal
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tunery.training.protocol import (
    CheckpointSaved,
    ControlRequest,
    Failed,
    FailureCode,
    Finished,
    Message,
    Started,
    StateSaved,
    StepMetrics,
    Stopped,
    TrainSpec,
    Workdir,
    encode,
)

SCRIPT: dict[str, Any] = {"step_s": 0.02, "steps": 30, "epochs": 3, **json.loads(os.environ.get("SCRIPT", "{}"))}


def say(message: Message) -> None:
    sys.stdout.buffer.write(encode(message))
    sys.stdout.buffer.flush()


SAID: list[dict[str, Any]] = []  # of steps; said again by who goes on, as the trainer does


def save(workdir: Workdir, step: int, total: float) -> None:
    workdir.state.mkdir(exist_ok=True)
    part = workdir.state / "meta.json.part"
    part.write_text(json.dumps({"step": step, "total": total, "said": SAID}))
    part.replace(workdir.state / "meta.json")
    say(StateSaved(step))


def load(workdir: Workdir) -> tuple[int, float]:
    try:
        meta = json.loads((workdir.state / "meta.json").read_text())
    except FileNotFoundError:
        return 0, 0.0
    SAID.extend(meta["said"])
    return meta["step"], meta["total"]


def checkpoint(workdir: Workdir, step: int, epoch: int, loss: float) -> None:
    folder = workdir.checkpoint(step)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "adapter_config.json").write_text("{}")
    (folder / "adapter_model.safetensors").write_text(f"weights of step {step}")
    say(CheckpointSaved(step, epoch, {"train_loss": loss, "full_valid_loss": loss}))


def misbehave(workdir: Workdir, step: int) -> None:
    fault = SCRIPT.get("fault")
    if not fault or step != fault["step"]:
        return
    once = workdir.root / "fault-happened"
    if fault.get("once") and once.exists():
        return
    once.touch()
    if fault["kind"] == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if fault["kind"] == "exit":
        sys.exit("no such thing as a free lunch")
    if fault["kind"] == "failed":
        say(Failed.of(FailureCode.OUT_OF_MEMORY, "The job does not fit into memory."))
        sys.exit(0)


def main(workdir: Workdir) -> None:
    TrainSpec.load(workdir)
    parent = os.getppid()
    steps, epochs = SCRIPT["steps"], SCRIPT["epochs"]
    step, total = load(workdir)
    time.sleep(SCRIPT.get("load_s", 0))
    say(Started(num_examples=10, total_steps=steps, trained_tokens=1000, device="cpu"))
    for said in SAID:
        say(StepMetrics(**said))
    loss = 0.0
    while step < steps:
        if workdir.requested() is ControlRequest.PAUSE:
            save(workdir, step, total)
            say(Stopped())
            return
        if os.getppid() != parent:
            return
        time.sleep(SCRIPT["step_s"])
        step += 1
        misbehave(workdir, step)
        total += step
        loss = total / 100
        metrics = StepMetrics(
            step=step, total_steps=steps, epoch=1 + (step - 1) * epochs // steps, train_loss=loss,
            train_mean_token_accuracy=0.5, eta_s=(steps - step) * SCRIPT["step_s"], lr=1e-4, grad_norm=1.0,
            tokens_per_s=10.0,
        )  # fmt: skip
        SAID.append(asdict(metrics))
        say(metrics)
        if step % (steps // epochs) == 0:
            checkpoint(workdir, step, step // (steps // epochs), loss)
        if step % 5 == 0:
            save(workdir, step, total)
    say(Finished(steps, trained_tokens=1000))


main(Workdir(Path(sys.argv[1])))
