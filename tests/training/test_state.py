from pathlib import Path

import torch

from tests.training.conftest import MakeModel
from tunery.training.optimizer import AdamW
from tunery.training.state import Progress, load_state, save_state, saved_product_dtype


def test_a_resumed_job_goes_on_with_its_product_type(make_model: MakeModel, tmp_path: Path) -> None:
    model = make_model(dtype=torch.bfloat16, products=torch.float32)
    optimizer = AdamW(model.parameters())
    assert saved_product_dtype(tmp_path) is None
    save_state(tmp_path, model, optimizer, Progress(step=3))
    assert saved_product_dtype(tmp_path) is torch.float32
    progress = load_state(tmp_path, model, optimizer)
    assert progress is not None and progress.step == 3
