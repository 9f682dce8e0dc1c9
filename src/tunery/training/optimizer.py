"""AdamW by torch's own function for it, and the learning rate over a job.

The class `torch.optim.AdamW` calls that function as well. But it imports torch's compiler, 75 MB and a second of it, to
say that it is not to be compiled.
"""

import math
from collections.abc import Iterable

import torch
from torch.nn import Parameter
from torch.optim.adamw import adamw


class AdamW:
    """Without weight decay: an adapter starts at nothing. `state` has the names of torch's."""

    def __init__(self, parameters: Iterable[Parameter]) -> None:
        self.state = {parameter: _zeros(parameter) for parameter in parameters}

    @torch.no_grad()
    def step(self, lr: float) -> None:
        """Parameters without a gradient stay as they are."""
        moved = [parameter for parameter in self.state if parameter.grad is not None]
        states = [self.state[parameter] for parameter in moved]
        adamw(
            list(moved),
            [parameter.grad for parameter in moved if parameter.grad is not None],
            [state["exp_avg"] for state in states],
            [state["exp_avg_sq"] for state in states],
            [],
            [state["step"] for state in states],
            fused=True,
            amsgrad=False,
            beta1=0.9,
            beta2=0.999,
            lr=lr,
            weight_decay=0.0,
            eps=1e-8,
            maximize=False,
        )

    def zero_grad(self) -> None:
        for parameter in self.state:
            parameter.grad = None


def _zeros(parameter: Parameter) -> dict[str, torch.Tensor]:
    """The step, a scalar, and two moments of the parameter's shape, [R, in] or [out, R]."""
    step = torch.zeros((), dtype=torch.float32, device=parameter.device)
    return {"step": step, "exp_avg": torch.zeros_like(parameter), "exp_avg_sq": torch.zeros_like(parameter)}


WARMUP_SHARE = 0.05
MAX_WARMUP_STEPS = 50
FLOOR = 0.1


def learning_rate(step: int, total_steps: int, peak: float) -> float:
    """The rate of optimizer step `step`, counted from 0."""
    warmup = max(1, min(MAX_WARMUP_STEPS, round(WARMUP_SHARE * total_steps)))
    if step < warmup:
        return peak * (step + 1) / (warmup + 1)
    progress = (step - warmup) / max(1, total_steps - warmup)
    return peak * (FLOOR + (1 - FLOOR) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress))))
