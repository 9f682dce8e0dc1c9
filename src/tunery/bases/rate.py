"""The learning rate that LoRA on a base wants, found once by trying and kept in the catalog.

Rows of our own examples train the base shortly at one rate after the other (training.rates). Where that would take too
long on this machine, or comes to nothing, the rate stays the usual one of models of this size.
"""

import logging
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunery.bases.entry import change_rate
from tunery.bases.examine import LORA_RANK
from tunery.domain.errors import NotFound
from tunery.domain.files import example_file
from tunery.jobs.hold import TrainerProcess, lock_workdir, start_process
from tunery.models.adapter_config import LoraConfig
from tunery.models.catalog import Catalog
from tunery.models.config import read_sizes
from tunery.models.sources import cache as sources
from tunery.models.sources.base import Progress
from tunery.settings import Settings
from tunery.texts import say
from tunery.training.protocol import RateFound, StepMetrics, TrainSpec, Workdir

log = logging.getLogger(__name__)

LONGEST_S = 900.0
FEWEST = 3  # rates that a search tries
POLL_S = 0.2
FILES = ("marv.jsonl", "tickets_train.jsonl")  # free answers, and labels
NUM_ROWS, BATCH_SIZE, HELD_OUT = 160, 8, 5  # each fifth row is held out
# What LoRA on all linear layers wants: the smaller the weights, the larger the rate. By parameters.
USUAL_RATES = ((200e6, 1e-3), (600e6, 5e-4), (float("inf"), 2e-4))


@dataclass(frozen=True)
class Rate:
    learning_rate: float
    tried: tuple[tuple[float, float | None], ...] = ()  # rates with the loss of held-out rows
    is_usual: bool = False  # of models of this size: nothing was found

    @property
    def remark(self) -> str:
        """For who reads the catalog: where it is from."""
        losses = (f"diverged at {rate:g}" if loss is None else f"{loss:.3f} at {rate:g}" for rate, loss in self.tried)
        found = f"found by trying: loss {', '.join(losses)}" if self.tried else ""
        return "the usual one of this size, not tried" if self.is_usual else found

    def to_dict(self) -> dict[str, Any]:
        tried = [{"learning_rate": rate, "loss": loss} for rate, loss in self.tried]
        return {"learning_rate": self.learning_rate, "rates_tried": tried}


def find_rate(model_dir: Path, settings: Settings, progress: Progress) -> Rate:
    """Takes up to LONGEST_S."""
    usual = usual_rate(model_dir)
    work = settings.home / "work"
    work.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="rate-", dir=work) as name:
        workdir = Workdir(Path(name))
        _fill(workdir, model_dir, usual)
        with lock_workdir(workdir) as lock:
            trainer = TrainerProcess(workdir, start_process(workdir, lock))
            try:
                found = _await(trainer, progress)
            finally:
                trainer.close()
    if found is None or found.learning_rate is None:
        log.warning("no learning rate was found, %g is the usual one: %s", usual, trainer.log_tail())
        return Rate(usual, is_usual=True)
    return Rate(found.learning_rate, tuple(zip(found.rates, found.losses, strict=True)))


def find_again(name: str, settings: Settings, progress: Progress) -> Rate:
    """Of a base that was added; what is found is written into the catalog. Raises NotFound, InvalidRequest where the
    catalog cannot be read, SourceError where the weights cannot be had."""
    catalog = Catalog.of(settings)
    model = catalog.resolve(name)
    if model.name not in catalog.own:
        raise NotFound(say("base.rate_not_own", name=name), param="model", code="model_not_found")
    artifact = catalog.artifacts.get(model.source)
    rate = find_rate(sources.ensure(model.source, settings.models_dir, progress, artifact), settings, progress)
    if rate.tried:
        change_rate(settings, catalog, model.name, rate.learning_rate, rate.remark)
    return rate


def usual_rate(model_dir: Path) -> float:
    size = read_sizes(model_dir).num_parameters
    return next(rate for most, rate in USUAL_RATES if size <= most)


def _fill(workdir: Workdir, model_dir: Path, start: float) -> None:
    rows = [line for file in FILES for line in example_file(file).read_text("utf-8").split("\n") if line][:NUM_ROWS]
    workdir.valid_file.write_text("\n".join(rows[::HELD_OUT]), "utf-8")
    workdir.train_file.write_text("\n".join(row for at, row in enumerate(rows) if at % HELD_OUT), "utf-8")
    TrainSpec(
        job_id="rate",
        model_dir=model_dir,
        train_file=workdir.train_file,
        valid_file=workdir.valid_file,
        n_epochs=1,
        batch_size=BATCH_SIZE,
        learning_rate=start,
        max_example_tokens=1024,
        lora=LoraConfig(LORA_RANK, 2.0 * LORA_RANK, target_modules=read_sizes(model_dir).lora_targets),
        seeks_rate=True,
    ).save(workdir)


def _await(trainer: TrainerProcess, progress: Progress) -> RateFound | None:
    """None: it failed, or would take too long."""
    deadline, steps, found = time.monotonic() + LONGEST_S, 0, None
    while not trainer.ended and time.monotonic() < deadline:
        for message in trainer.messages(POLL_S):
            found = message if isinstance(message, RateFound) else found
            if isinstance(message, StepMetrics):
                steps += 1
                progress("trying_rates", steps, max(FEWEST, -(-steps // message.total_steps)) * message.total_steps)
                if steps == 3 and message.eta_s * FEWEST > LONGEST_S:
                    log.warning("trying learning rates would take %d minutes", message.eta_s * FEWEST / 60)
                    return None
    return found
