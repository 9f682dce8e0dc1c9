"""How `trl.tar.gz` was made, with TRL 1.16.0: `python make_trl.py BASE outputs`, the base being that of these tests."""

import sys

from datasets import Dataset
from peft import LoraConfig
from trl import SFTConfig, SFTTrainer  # pyright: ignore[reportMissingImports]

base, to = sys.argv[1:3]
rows = [
    {
        "messages": [
            {"role": "user", "content": f"Say {n}."},
            {"role": "assistant", "content": f"Number {n}, of course."},
        ]
    }
    for n in range(8)
]
settings = SFTConfig(
    output_dir=to, max_steps=6, per_device_train_batch_size=4, learning_rate=0.02, save_steps=6, use_cpu=True,
    report_to=[], bf16=False,
)  # fmt: skip
lora = LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM")
trainer = SFTTrainer(model=base, args=settings, train_dataset=Dataset.from_list(rows), peft_config=lora)
trainer.train()
trainer.save_model(to)
