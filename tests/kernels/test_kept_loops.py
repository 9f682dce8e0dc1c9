"""What was compiled is kept, and the same in the process that compiles it as in one that loads it."""

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
layers.causal_softmax(scores, 64, 63, layers.ALL)
grad = numbers.standard_normal(scores.shape).astype(np.float32)
layers.causal_softmax_backward(grad, scores, 64, 63, layers.ALL)
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


STEPS = """
import sys
from pathlib import Path
from numba.core.dispatcher import Dispatcher
from tunery.kernels import layers
from tunery.models.adapter_config import LoraConfig
from tunery.training.examples import TrainExample
from tunery.training.forward.model import TrainModel
from tunery.training.forward.packing import Row
from tunery.training.methods.sft import Supervised
from tunery.training.optimizer import AdamW
from tunery.training.step import MicroBatchLimit, Stepper

model = TrainModel.load(Path(sys.argv[1]), LoraConfig(rank=4), seed=0, device="cpu")
for limit in (1024, 32):
    stepper = Stepper(model, Supervised(), AdamW(model.parameters()), MicroBatchLimit(limit))
    for rows in ([[*range(40), 1], [*range(40), 2]], [[7] * 9, [8] * 50], [[9] * 99]):
        stepper.step([TrainExample((Row(ids, [0.0] * 3 + [1.0] * (len(ids) - 3)),), len(ids)) for ids in rows], 1e-4)
loops = [loop for loop in vars(layers).values() if isinstance(loop, Dispatcher) and loop.overloads]
print(len(loops), sum(sum(loop.stats.cache_misses.values()) for loop in loops))
"""


def test_after_the_warm_up_a_first_job_compiles_nothing(base_model_dir: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}
    subprocess.run([sys.executable, "-m", "tunery.training.warm_up"], env=environment, check=True)
    steps = [sys.executable, "-c", STEPS, str(base_model_dir)]
    told = subprocess.run(steps, env=environment, check=True, capture_output=True, text=True).stdout.split()
    assert told == ["7", "0"]
