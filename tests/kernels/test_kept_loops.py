"""A loop gives the same bits in the process that compiles it and in one that loads what was kept."""

import os
import subprocess
import sys
from pathlib import Path

LOOPS = """
import hashlib
import numpy as np
from tunery.kernels import layers
from tunery.kernels.compile import use_threads

use_threads(1)
numbers = np.random.default_rng(0)
scores = numbers.standard_normal((16, 128, 127)).astype(np.float32)
layers.causal_softmax(scores, 64, 63)
grad = numbers.standard_normal(scores.shape).astype(np.float32)
layers.causal_softmax_backward(grad, scores, 64, 63)
x, weight = numbers.standard_normal((256, 96)).astype(np.float32), numbers.standard_normal(96).astype(np.float32)
normed, inverse = np.zeros_like(x), np.zeros(len(x), np.float32)
layers.norm(x, weight, np.float32(1e-6), normed, inverse)
loops = (layers.causal_softmax, layers.causal_softmax_backward, layers.norm)
print(sum(sum(loop.stats.cache_misses.values()) for loop in loops), end=" ")
print(*(hashlib.sha256(made.tobytes()).hexdigest() for made in (scores, grad, normed, inverse)))
"""


def test_loops_compute_the_same_when_just_compiled_and_when_loaded(tmp_path: Path) -> None:
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}
    told = [
        subprocess.run(
            [sys.executable, "-c", LOOPS], env=environment, check=True, capture_output=True, text=True
        ).stdout.split()
        for _ in range(2)
    ]
    assert [made[0] for made in told] == ["3", "0"], "the first compiles all, the second none"
    assert told[0][1:] == told[1][1:]
