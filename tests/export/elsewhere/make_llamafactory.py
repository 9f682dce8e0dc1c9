"""How `llamafactory.tar.gz` was made, with LLaMA-Factory 0.9.5 (and DISABLE_VERSION_CHECK=1): `python
make_llamafactory.py BASE outputs`, the base being that of these tests."""

import json
import sys
from pathlib import Path

from llamafactory.train.tuner import run_exp  # pyright: ignore[reportMissingImports]

base, to = sys.argv[1:3]
data = Path("data")
data.mkdir(exist_ok=True)
rows = [
    {
        "messages": [
            {"role": "user", "content": f"Say {n}."},
            {"role": "assistant", "content": f"Number {n}, of course."},
        ]
    }
    for n in range(8)
]
tags = {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant"}
about = {"file_name": "rows.json", "formatting": "sharegpt", "columns": {"messages": "messages"}, "tags": tags}
(data / "rows.json").write_text(json.dumps(rows))
(data / "dataset_info.json").write_text(json.dumps({"rows": about}))
run_exp(
    {
        "stage": "sft", "do_train": True, "model_name_or_path": base, "dataset": "rows", "dataset_dir": str(data),
        "template": "chatml", "finetuning_type": "lora", "lora_target": "all", "lora_rank": 4, "lora_alpha": 8,
        "output_dir": to, "per_device_train_batch_size": 4, "learning_rate": 0.02, "max_steps": 4, "save_steps": 4,
        "logging_steps": 1, "cutoff_len": 128, "report_to": "none", "disable_gradient_checkpointing": True,
    }
)  # fmt: skip
