"""The training loop: order, validation, checkpoints, state, pauses. Everything it says goes through `report`."""

import time
from dataclasses import asdict, dataclass
from typing import Literal

import torch

from tunery.models.adapter_config import LoraConfig
from tunery.texts import say
from tunery.training.batching import batch_indices, cursor_of, num_batches
from tunery.training.checkpoint import prune, save_checkpoint
from tunery.training.control import Control, Interrupted
from tunery.training.examples import TrainExample
from tunery.training.optimizer import learning_rate
from tunery.training.pace import Pace
from tunery.training.protocol import (
    CheckpointSaved,
    FailureCode,
    Note,
    Report,
    StateSaved,
    StepMetrics,
    TrainingFailure,
    TrainSpec,
    Workdir,
)
from tunery.training.state import Progress, save_state
from tunery.training.step import Stepper, StepResult
from tunery.training.validation import Validator, early_stopping

Outcome = Literal["finished", "paused", "left"]

KEPT_STEPS = 256  # whose words a state keeps: more than a pipe holds that nobody reads
MAX_SKIPPED_IN_ROW = 5


class Diverged(TrainingFailure):
    """The loss is no number any more; going on would not mend it."""

    failure = FailureCode.TRAINING_DIVERGED


@dataclass
class Loop:
    spec: TrainSpec
    lora: LoraConfig  # the spec's, or that of the adapter the job goes on from
    workdir: Workdir
    base_model: str  # what adapter_config.json names
    examples: list[TrainExample]
    stepper: Stepper
    validator: Validator
    control: Control
    report: Report
    progress: Progress

    def __post_init__(self) -> None:
        self.steps_per_epoch = num_batches(len(self.examples), self.spec.batch_size)
        self.total_steps = self.spec.n_epochs * self.steps_per_epoch
        self._pace = Pace(self.spec.state_interval_s)
        self._started = time.monotonic() - self.progress.elapsed_s

    def run(self) -> Outcome:
        """Until the last step, or until it is to stop. Raises Diverged, OutOfMemory, OSError."""
        try:
            while self.progress.step < self.total_steps:
                self.control.check()
                metrics = self.one_step()
                if self._end_of_epoch() and self._finish_epoch(metrics) == "stop":
                    break
                if self._pace.is_due():
                    self.save()
        except Interrupted as interrupted:
            self.save()
            outcomes: dict[str, Outcome] = {"pause": "paused", "leave": "left"}
            return outcomes[interrupted.reason]
        return "finished"

    def save(self) -> None:
        """Everything up to the last whole step."""
        self.progress.elapsed_s = time.monotonic() - self._started
        self.progress.max_tokens = self.stepper.limit.max_tokens
        with self._pace.measured():
            save_state(self.workdir.state, self.stepper.model, self.stepper.optimizer, self.progress)
        self.report(StateSaved(self.progress.step))

    def say_again(self) -> None:
        """The last steps of the state, of which a worker that died may not have heard. Known ones are passed over."""
        for said in self.progress.last_steps:
            self.report(StepMetrics(**said))

    def final_step(self) -> int:
        """The checkpoint that is the job's adapter: the last one, or the best when it was stopped early."""
        steps = [step for step in self.progress.checkpoints if self.workdir.checkpoint(step).exists()]
        if self.spec.early_stopping and self.progress.valid_losses:
            losses = {step: loss for step, loss in self.progress.valid_losses if step in steps}
            return min(losses, key=lambda step: losses[step])
        return steps[-1]

    def one_step(self) -> StepMetrics:
        """Raises Diverged, OutOfMemory."""
        index = self.progress.step
        # Dropout draws from here, so a resumed step draws what it would have drawn.
        torch.manual_seed(self.spec.seed * 1_000_003 + index)
        cursor = cursor_of(index, len(self.examples), self.spec.batch_size)
        chosen = batch_indices(cursor, len(self.examples), self.spec.batch_size, self.spec.seed)
        lr = learning_rate(index, self.total_steps, self.spec.learning_rate)
        result = self.stepper.step([self.examples[i] for i in chosen], lr)
        step = index + 1
        validation: dict[str, float] = {}
        if self.validator.is_due(step, self.total_steps):
            validation |= self.validator.partial(step)
        if step % self.steps_per_epoch == 0 and self.validator.examples:
            validation |= self.validator.full()
            self.progress.valid_losses.append((step, validation["full_valid_loss"]))
        # Only now: a pause during validation gives the whole step up only if it is counted afterwards.
        self.progress.step = step
        metrics = self._metrics(result, step, validation)
        self.progress.last_steps = [*self.progress.last_steps[1 - KEPT_STEPS :], asdict(metrics)]
        self.report(metrics)
        self._warn(result, step)
        return metrics

    def _metrics(self, result: StepResult, step: int, validation: dict[str, float]) -> StepMetrics:
        elapsed = time.monotonic() - self._started
        return StepMetrics(
            step=step,
            total_steps=self.total_steps,
            epoch=(step - 1) // self.steps_per_epoch + 1,
            train_loss=result.loss,
            train_mean_token_accuracy=result.accuracy,
            lr=result.lr,
            grad_norm=result.grad_norm,
            tokens_per_s=result.num_tokens / result.time_s,
            eta_s=elapsed / step * (self.total_steps - step),
            extras={f"train_{name}": value for name, value in result.extras.items()},
            **validation,
        )

    def _warn(self, result: StepResult, step: int) -> None:
        if result.halvings:
            limit = self.stepper.limit.max_tokens
            text = say("event.smaller_batches", step=step, most=limit)
            self.report(Note.of(text, level="warn", data={"step": step, "max_tokens": limit}))
        if result.is_finite:
            self.progress.skipped_in_row = 0
            return
        self.progress.skipped_in_row += 1
        text = say("event.step_skipped", step=step)
        self.report(Note.of(text, level="warn", data={"step": step, "skipped": True}))
        if self.progress.skipped_in_row >= MAX_SKIPPED_IN_ROW:
            raise Diverged(say("event.diverged", steps=MAX_SKIPPED_IN_ROW))

    def _end_of_epoch(self) -> bool:
        return self.progress.step % self.steps_per_epoch == 0

    def _finish_epoch(self, metrics: StepMetrics) -> Literal["go on", "stop"]:
        step = self.progress.step
        save_checkpoint(self.workdir, step, self.stepper.model, self.lora, self.base_model)
        self.progress.checkpoints = prune(self.workdir, [*self.progress.checkpoints, step])
        self.report(CheckpointSaved(step, metrics.epoch, metrics.measured))
        stop = self._advise(step)
        self.save()
        return "stop" if stop else "go on"

    def _advise(self, step: int) -> bool:
        """Say that the validation loss has turned; True when the job is to end for it."""
        advice = early_stopping(self.progress.valid_losses)
        if advice is None or step == self.total_steps:
            return False
        if not self.progress.is_advised:
            self.progress.is_advised = True
            data = {"advice": "early_stopping", "best_step": advice.best_step, "step": step}
            self.report(Note.of(advice.text, level="warn", data=data))
        return self.spec.early_stopping
