"""The learning rate over a job: a short linear rise, then a cosine down to a tenth."""

import math

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
