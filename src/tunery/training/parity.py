"""Log-probabilities of a few examples as the trainer sees them, for the engine to reproduce."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from tunery.training.examples import TrainExample
from tunery.training.forward.inputs import pack
from tunery.training.forward.model import TrainModel
from tunery.training.forward.packing import Row
from tunery.training.losses import token_logprobs

PARITY_FILE = "parity.json"
MAX_TOKENS = 1024  # of an example: enough to see a difference, little enough to be quick


@torch.no_grad()
def write_parity(workdir: Path, model: TrainModel, examples: Sequence[TrainExample], count: int) -> Path | None:
    """Write `[{token_ids, start, logprobs}]`; logprobs[i] belongs to token_ids[start + i]. None without examples."""
    records = [record for example in examples[:count] if (record := _measure(model, example.rows[0])) is not None]
    if not records:
        return None
    path = workdir / PARITY_FILE
    path.write_text(json.dumps(records), "utf-8")
    return path


def _measure(model: TrainModel, row: Row) -> dict[str, Any] | None:
    token_ids = row.token_ids[:MAX_TOKENS]
    start = next((index for index in range(1, len(token_ids)) if row.loss_weights[index]), None)
    if start is None:
        return None
    asked = Row(token_ids, [0.0] * start + [1.0] * (len(token_ids) - start))
    inputs = pack([asked], model.shape)
    logprobs, _ = token_logprobs(model.hidden(inputs), model.head, inputs.labels)
    return {"token_ids": token_ids, "start": start, "logprobs": logprobs.tolist()}
