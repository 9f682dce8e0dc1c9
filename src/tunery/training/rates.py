"""The learning rate that a base wants, found by training on it shortly: what the trainer does for a spec that
`seeks_rate`.

Each rate trains the same rows from the same beginning, by the schedule of jobs, and is judged by rows that were held
out. The search goes from the spec's rate by factors of √10 to wherever that loss is lower, and ends when the best rate
has a worse one on either side.
"""

import math
from collections.abc import Callable
from dataclasses import replace

from tunery.models.adapter_files import Matrices
from tunery.training.forward.lora import matrices_of, set_matrices
from tunery.training.loop import Diverged, Loop
from tunery.training.optimizer import AdamW
from tunery.training.protocol import RateFound
from tunery.training.state import Progress

FACTOR = math.sqrt(10)
MOST = 7  # rates: enough for a start that is three hundred times off


def find_rate(loop: Loop) -> RateFound:
    """Its examples are the rows, its validator has those held out."""
    layers = loop.stepper.model.layers
    begin = {
        name: Matrices(each.a.detach().clone(), each.b.detach().clone()) for name, each in matrices_of(layers).items()
    }

    def loss_of(rate: float) -> float:
        set_matrices(layers, begin)
        return _train(loop, rate)

    tried = search(loss_of, loop.spec.learning_rate)
    best = min(tried, key=lambda rate: tried[rate])
    rates = sorted(tried)
    losses = [tried[rate] if math.isfinite(tried[rate]) else None for rate in rates]
    return RateFound(best if math.isfinite(tried[best]) else None, rates, losses)


def search(loss_of: Callable[[float], float], start: float) -> dict[float, float]:
    """Each rate that was tried with its loss, which is infinite where training diverged."""
    tried: dict[int, float] = {}
    best = 0
    while len(tried) < MOST:
        wanted = [place for place in (best, best + 1, best - 1) if place not in tried]
        if not wanted:
            break
        tried[wanted[0]] = loss_of(_rate(start, wanted[0]))
        best = min(tried, key=lambda place: (tried[place], place))  # where all diverged, lower
    return {_rate(start, place): loss for place, loss in tried.items()}


def _rate(start: float, place: int) -> float:
    """With two digits, as people write rates."""
    return float(f"{start * FACTOR**place:.1e}")


def _train(loop: Loop, rate: float) -> float:
    """The loss of the held-out rows at its end."""
    stepper = replace(loop.stepper, optimizer=AdamW(loop.stepper.model.parameters()))
    trial = replace(
        loop,
        spec=replace(loop.spec, learning_rate=rate),
        stepper=stepper,
        validator=replace(loop.validator, stepper=stepper),
        progress=Progress(),
    )
    try:
        while trial.progress.step < trial.total_steps:
            trial.control.check()
            trial.one_step()
    except Diverged:
        return math.inf
    _, loss = trial.progress.valid_losses[-1]
    return loss if math.isfinite(loss) else math.inf
