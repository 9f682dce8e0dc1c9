"""A trainer of a group in fp32, as a process: jobs train in bf16, whose rounding would hide what is to be seen."""

import json
from pathlib import Path

import torch

from tunery.chat.render import Renderer
from tunery.training.batching import batch_indices, cursor_of
from tunery.training.examples import read
from tunery.training.forward.model import TrainModel
from tunery.training.group import Group
from tunery.training.methods.base import TrainingMethod
from tunery.training.methods.dpo import Preference, reference_logprobs
from tunery.training.methods.sft import Supervised
from tunery.training.optimizer import AdamW
from tunery.training.protocol import TrainSpec, Workdir
from tunery.training.step import MicroBatchLimit, Stepper


def in_fp32(folder: str, rank: int, number: int, meeting: str) -> None:
    """Some steps and a look at all rows, as a trainer of a job takes them; what came of them is written down."""
    workdir = Workdir(Path(folder))
    spec = TrainSpec.load(workdir)
    torch.set_num_threads(1)
    examples = read(spec.train_file, spec.method, Renderer.from_dir(spec.model_dir), 2048, param="training_file")
    model = TrainModel.load(spec.model_dir, spec.lora, seed=spec.seed, device="cpu", dtype=torch.float32)
    method: TrainingMethod = Supervised()
    if spec.method == "dpo":
        method = Preference(spec.beta, reference_logprobs(workdir, model, examples, 300, lambda: None))
    model.train()
    group = Group.join(rank, number, meeting)
    stepper = Stepper(model, method, AdamW(model.parameters()), MicroBatchLimit(300), group=group)
    seen: list[float] = []
    for step in range(9):
        chosen = batch_indices(cursor_of(step, len(examples), 4), len(examples), 4, spec.seed)
        result = stepper.step([examples[index] for index in chosen], 1e-2)
        seen += [result.loss, result.grad_norm, result.accuracy, *result.extras.values()]
    seen.append(stepper.evaluate(examples).mean_loss)
    weights = torch.cat([parameter.detach().flatten() for parameter in model.parameters()]).tolist()
    (workdir.root / f"{number}-{rank}.json").write_text(json.dumps({"seen": seen, "weights": weights}))
