"""The reference log-probabilities of DPO: computed once, before the first step, and kept for a resumed job.

Apart because one method alone needs it.
"""

import json
from collections.abc import Callable, Sequence

from tunery import atomic
from tunery.training.batching import micro_batches
from tunery.training.examples import TrainExample
from tunery.training.forward.model import TrainModel
from tunery.training.methods.dpo import answer_logprobs
from tunery.training.protocol import Workdir
from tunery.training.step import MicroBatchLimit

FILE = "reference.json"


def reference_logprobs(
    workdir: Workdir,
    model: TrainModel,
    examples: Sequence[TrainExample],
    limit: MicroBatchLimit,
    check: Callable[[], None],
) -> dict[TrainExample, tuple[float, float]]:
    """For each pair the log-probability of its answers under `model`, which must not have been trained yet."""
    workdir.state.mkdir(exist_ok=True)
    path = workdir.state / FILE
    if path.exists():
        values = json.loads(path.read_text("utf-8"))
        if len(values) == len(examples):
            return {example: (pair[0], pair[1]) for example, pair in zip(examples, values, strict=True)}
    found: dict[TrainExample, tuple[float, float]] = {}
    for indices in micro_batches([example.rows for example in examples], limit.max_tokens):
        check()
        chosen = [examples[index] for index in indices]
        found |= zip(chosen, answer_logprobs(model, chosen), strict=True)
    atomic.write_text(path, json.dumps([found[example] for example in examples]))
    return found
