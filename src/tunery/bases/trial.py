"""A base tried out: the trainer of jobs takes a step on it, and the engine must give the numbers that the trainer
measured. What passes can be trained and served on this machine; nothing else shows that as surely.

The model's memory is the trainer's first and the engine's then, never both at once.
"""

import logging
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tunery.bases.examine import Unusable
from tunery.jobs.endings import ParityBroken, check_parity
from tunery.jobs.hold import TrainerProcess, lock_workdir, start_process
from tunery.kernels import process
from tunery.models.adapter_config import LoraConfig
from tunery.models.catalog import Catalog
from tunery.models.config import is_described, read_sizes
from tunery.models.sources.base import Progress
from tunery.settings import Settings
from tunery.texts import say
from tunery.training.protocol import Failed, Finished, Message, TrainSpec, Workdir

log = logging.getLogger(__name__)

LONGEST_S = 1800.0  # of one of the two: a first start compiles loops
POLL_S = 0.2
CACHE_BYTES = 1 << 26  # for a few short prompts
ROWS = """\
{"messages": [{"role": "user", "content": "Is it open today?"}, {"role": "assistant", "content": "Yes, until six."}]}
{"messages": [{"role": "user", "content": "Where is it?"}, {"role": "assistant", "content": "Behind the station."}]}
"""


class NotServed(Exception):
    """Our engine does not compute the model; the message says why."""


@dataclass(frozen=True)
class Tried:
    is_served: bool  # False: the engine does not compute this architecture, vLLM must
    difference: float | None  # of trainer and engine, in log-probability a token


def try_out(
    model_dir: Path, source: str, settings: Settings, catalog: Catalog, progress: Progress, *, lora_rank: int
) -> Tried:
    """Raises Unusable. Takes from seconds to minutes."""
    work = settings.home / "work"
    work.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="try-", dir=work) as name:
        workdir = Workdir(Path(name))
        step = _train(workdir, model_dir, lora_rank, progress)
        try:
            with _engine(model_dir, source, settings, workdir, progress) as url:
                progress("comparing", 0, None)
                report = check_parity(
                    workdir.samples, workdir.checkpoint(step), "trial", source=source, engines=[url], catalog=catalog
                )
        except NotServed as exc:
            if settings.engine_urls and not is_described(model_dir):
                return Tried(False, None)
            raise Unusable(say("base.not_served", reason=exc.args[0]), param="source") from exc
        except ParityBroken as exc:
            raise Unusable(say("base.served_otherwise", reason=exc.args[0]), param="source") from exc
    if not report.is_checked:
        raise Unusable(say("base.not_served", reason=report.message), param="source")
    return Tried(True, report.details["mean_difference"])


def _train(workdir: Workdir, model_dir: Path, lora_rank: int, progress: Progress) -> int:
    """The step whose checkpoint is there. Raises Unusable."""
    workdir.train_file.write_text(ROWS, "utf-8")
    TrainSpec(
        job_id="trial",
        model_dir=model_dir,
        train_file=workdir.train_file,
        n_epochs=1,
        batch_size=2,
        learning_rate=1e-4,
        lora=LoraConfig(lora_rank, 2.0 * lora_rank, target_modules=read_sizes(model_dir).lora_targets),
    ).save(workdir)
    with lock_workdir(workdir) as lock:
        trainer = TrainerProcess(workdir, start_process(workdir, lock))
        deadline, last = time.monotonic() + LONGEST_S, None
        try:
            while not trainer.ended and time.monotonic() < deadline:
                progress("training", 0, None)
                last = _last_word(trainer.messages(POLL_S)) or last
        finally:
            trainer.close()
    if isinstance(last, Finished):
        return last.step
    log.error("the trainer came to nothing: %s", trainer.log_tail())
    reason = last.message if isinstance(last, Failed) else say("base.trainer_died")
    raise Unusable(say("base.not_trained", reason=reason), param="source")


def _last_word(messages: list[Message]) -> Finished | Failed | None:
    return next((each for each in reversed(messages) if isinstance(each, Finished | Failed)), None)


@contextmanager
def _engine(model_dir: Path, source: str, settings: Settings, workdir: Workdir, progress: Progress) -> Iterator[str]:
    """Its address, once it answers; ended with the block. Raises NotServed."""
    command = [sys.executable, "-m", "tunery.launch.tether", str(os.getpid()), "tunery.serving"]
    command += ["--model-dir", str(model_dir), "--served-name", source, "--port", "0"]
    command += ["--cache-bytes", str(CACHE_BYTES), "--adapters-dir", str(workdir.root)]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TUNERY_")}
    log_file = workdir.root / "engine.log"
    with log_file.open("wb") as errors:
        engine = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env={**environment, **process.instructions(settings.instructions)},
            start_new_session=True,
        )
    try:
        line = _first_line(engine, progress)
        if not line.startswith("ready "):
            words = log_file.read_text("utf-8", "replace").strip().rpartition("\n")[2]
            raise NotServed(words or "–")
        yield line.removeprefix("ready ").strip()
    finally:
        engine.kill()
        with engine:  # closes what it wrote to, too
            engine.wait()


def _first_line(process: subprocess.Popen[str], progress: Progress) -> str:
    """What it prints first; "" when it ends, or is silent for too long. `progress` is told meanwhile."""
    assert process.stdout is not None
    with ThreadPoolExecutor(1) as reader:
        line = reader.submit(process.stdout.readline)
        deadline = time.monotonic() + LONGEST_S
        try:
            while not line.done() and time.monotonic() < deadline:
                progress("starting", 0, None)
                wait([line], POLL_S)
        finally:
            if not line.done():
                process.kill()
    return line.result()
