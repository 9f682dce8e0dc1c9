"""Our AdamW against torch's class, and what the trainer's process must not import."""

import subprocess
import sys
from pathlib import Path

import torch

from tunery.training.optimizer import AdamW

JOB = """
import sys, tunery.training.job
from pathlib import Path
from tunery.models.adapter_config import LoraConfig
from tunery.training.examples import TrainExample
from tunery.training.methods.sft import Supervised
from tunery.training.forward.model import TrainModel
from tunery.training.optimizer import AdamW
from tunery.training.forward.packing import Row
from tunery.training.step import MicroBatchLimit, Stepper
model = TrainModel.load(Path(sys.argv[1]), LoraConfig(rank=2), seed=0, device="cpu")
stepper = Stepper(model, Supervised(), AdamW(model.parameters()), MicroBatchLimit(64))
for length in (20, 100):  # kept, and longer than the limit: computed again
    row = Row([5] * length, [1.0] * length)
    assert stepper.step([TrainExample((row,), length)], 1e-3).is_finite
print(*(name for name in ("transformers", "torch._dynamo", "sympy") if name in sys.modules))
"""


def test_it_moves_as_torchs_class() -> None:
    torch.manual_seed(0)
    mine, theirs = ([torch.nn.Parameter(torch.ones(3, 4)), torch.nn.Parameter(torch.ones(5))] for _ in range(2))
    ours, reference = AdamW(mine), torch.optim.AdamW(theirs, weight_decay=0.0)
    for lr in (1e-2, 1e-3, 5e-3):
        for one, two in zip(mine, theirs, strict=True):
            one.grad = torch.randn(one.shape)
            two.grad = one.grad.clone()
        reference.param_groups[0]["lr"] = lr
        ours.step(lr)
        reference.step()
    ours.zero_grad()
    assert all(parameter.grad is None for parameter in mine)
    ours.step(1.0)  # nothing has a gradient
    for one, two in zip(mine, theirs, strict=True):
        torch.testing.assert_close(one, two)
        assert set(ours.state[one]) == set(reference.state[two])


def test_it_goes_on_from_the_state_of_torchs_class() -> None:
    """Jobs of the version before saved that one."""
    theirs, mine = (torch.nn.Parameter(torch.ones(3, 4)) for _ in range(2))
    reference, ours = torch.optim.AdamW([theirs], lr=1e-2, weight_decay=0.0, fused=True), AdamW([mine])
    theirs.grad = torch.randn(3, 4)
    reference.step()
    ours.state[mine] = {name: value.clone() for name, value in reference.state[theirs].items()}
    mine.data.copy_(theirs.data)
    theirs.grad, mine.grad = torch.full((3, 4), 0.5), torch.full((3, 4), 0.5)
    reference.step()
    ours.step(1e-2)
    assert torch.equal(mine, theirs)


def test_a_small_job_imports_neither_transformers_nor_torchs_compiler(tiny_model_dir: Path) -> None:
    """Each is a second at the start of every job, together a tenth of its memory."""
    done = subprocess.run(
        [sys.executable, "-c", JOB, str(tiny_model_dir)], capture_output=True, text=True, check=True, timeout=120
    )
    assert done.stdout.strip() == ""
