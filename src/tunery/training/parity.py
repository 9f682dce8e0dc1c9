"""Log-probabilities of a few examples as the trainer sees them, for the engine to reproduce.

Apart because it runs once, after the last step.
"""

from collections.abc import Sequence

import torch

from tunery.training.examples import TrainExample
from tunery.training.forward.inputs import pack
from tunery.training.forward.model import TrainModel
from tunery.training.forward.packing import Row
from tunery.training.losses import token_logprobs
from tunery.training.protocol import Sample

NUM_EXAMPLES = 4
MAX_TOKENS = 1024  # of an example: enough to see a difference, little enough to be quick


@torch.no_grad()
def measure_samples(model: TrainModel, examples: Sequence[TrainExample]) -> list[Sample]:
    """Of the first examples; those without a trained token give none."""
    found = (_measure(model, example.rows[0]) for example in examples[:NUM_EXAMPLES])
    return [sample for sample in found if sample is not None]


def _measure(model: TrainModel, row: Row) -> Sample | None:
    token_ids = row.token_ids[:MAX_TOKENS]
    start = next((index for index in range(1, len(token_ids)) if row.loss_weights[index]), None)
    if start is None:
        return None
    asked = Row(token_ids, [0.0] * start + [1.0] * (len(token_ids) - start))
    inputs = pack([asked], model.shape)
    logprobs, _ = token_logprobs(model.hidden(inputs), model.head, inputs.labels)
    return Sample(token_ids, start, logprobs.tolist())
