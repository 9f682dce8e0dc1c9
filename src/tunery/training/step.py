"""One optimizer step: micro-batches forward and backward, one division, clip, update. No I/O."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch

from tunery.texts import say
from tunery.training.batching import micro_batches
from tunery.training.examples import TrainExample
from tunery.training.forward.inputs import pack
from tunery.training.forward.model import TrainModel
from tunery.training.group import ALONE, Group
from tunery.training.memory import is_out_of_memory
from tunery.training.methods.base import Sums, TrainingMethod
from tunery.training.optimizer import AdamW
from tunery.training.protocol import FailureCode, TrainingFailure

MAX_GRAD_NORM = 1.0
MIN_MICRO_BATCH_TOKENS = 32


class OutOfMemory(TrainingFailure):
    """Even the smallest micro-batch does not fit."""

    failure = FailureCode.OUT_OF_MEMORY


@dataclass
class MicroBatchLimit:
    """Tokens computed at once. Halved when memory runs out; a longer micro-batch recomputes its layers instead."""

    max_tokens: int

    def halve(self) -> None:
        """Raises OutOfMemory where less would not help."""
        if self.max_tokens // 2 < MIN_MICRO_BATCH_TOKENS:
            raise OutOfMemory(say("event.out_of_memory", tokens=self.max_tokens))
        self.max_tokens //= 2


@dataclass(frozen=True)
class StepResult:
    loss: float
    accuracy: float
    grad_norm: float
    lr: float
    num_tokens: int  # of the examples, each counted in full however much is shared
    time_s: float
    is_finite: bool  # False: the step was skipped
    halvings: int = 0
    extras: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Stepper:
    model: TrainModel
    method: TrainingMethod
    optimizer: AdamW
    limit: MicroBatchLimit
    check: Callable[[], None] = lambda: None  # called between micro-batches; raises to give the step up
    group: Group = ALONE

    def step(self, examples: Sequence[TrainExample], lr: float) -> StepResult:
        """Raises OutOfMemory, Interrupted, and whatever `check` raises; the parameters are then as before."""
        started = time.perf_counter()
        own, halvings = self._gradients(examples)
        sums, parameters = self.group.sum(own), self.model.parameters()
        if sums.weight:
            self.group.sum_gradients(parameters)
        norm = float(torch.nn.utils.clip_grad_norm_(parameters, MAX_GRAD_NORM, foreach=True))
        is_finite = norm == norm and norm != float("inf") and sums.mean_loss == sums.mean_loss
        if is_finite:
            self.optimizer.step(lr)
            self.model.refresh()
        self.optimizer.zero_grad()
        return StepResult(
            loss=sums.mean_loss,
            accuracy=sums.accuracy,
            grad_norm=norm,
            lr=lr,
            num_tokens=sum(len(row.token_ids) for example in examples for row in example.rows),
            time_s=time.perf_counter() - started,
            is_finite=is_finite,
            halvings=halvings,
            extras={name: value / sums.weight for name, value in sums.extras.items() if sums.weight},
        )

    def _gradients(self, examples: Sequence[TrainExample]) -> tuple[Sums, int]:
        halvings = 0
        while True:
            try:
                return self._accumulate(examples), halvings
            except (RuntimeError, MemoryError) as exc:
                if not is_out_of_memory(exc):
                    raise
            self.optimizer.zero_grad()
            self.model.body.release()
            self.limit.halve()
            halvings += 1

    def _accumulate(self, examples: Sequence[TrainExample]) -> Sums:
        total_weight = sum(self.method.weight(example) for example in examples)
        own, totals = self.group.share(examples), Sums()
        for indices in micro_batches([example.rows for example in own], self.limit.max_tokens):
            loss, sums = self._forward([own[index] for index in indices])
            totals.add(sums)
            if total_weight and loss.requires_grad:
                (loss / total_weight).backward()
        return totals

    def _forward(self, examples: Sequence[TrainExample]) -> tuple[torch.Tensor, Sums]:
        """The loss, a differentiable scalar, and the totals of a micro-batch."""
        self.check()
        inputs = pack([row for example in examples for row in example.rows], self.model.shape)
        self.model.body.recompute(inputs.num_tokens > self.limit.max_tokens)
        return self.method.forward(self.model, inputs, examples)

    @torch.no_grad()
    def evaluate(self, examples: Sequence[TrainExample]) -> Sums:
        """Totals without gradients. Raises Interrupted, and whatever `check` raises."""
        self.model.train(False)
        own, totals = self.group.share(examples), Sums()
        try:
            for indices in micro_batches([example.rows for example in own], self.limit.max_tokens):
                _, sums = self._forward([own[index] for index in indices])
                totals.add(sums)
        finally:
            self.model.train(True)
        return self.group.sum(totals)
