"""OpenAI's fine-tuning guide, run against Tunery: only `base_url` differs.

export OPENAI_API_KEY=sk-…        # printed by the first `tunery serve`
python examples/finetune.py
"""

import os
import time
from pathlib import Path

from openai import OpenAI

client = OpenAI(base_url=os.environ.get("OPENAI_BASE_URL", "http://127.0.0.1:8000/v1"))

file = client.files.create(
    file=open(Path(__file__).with_name("marv.jsonl"), "rb"),  # noqa: SIM115 - as the guide has it
    purpose="fine-tune",
)

job = client.fine_tuning.jobs.create(
    training_file=file.id,
    model="gpt-4o-mini-2024-07-18",
    suffix="marv",
)

while job.status not in ("succeeded", "failed", "cancelled"):
    time.sleep(2)
    job = client.fine_tuning.jobs.retrieve(job.id)
    newest = client.fine_tuning.jobs.list_events(job.id, limit=1).data[0]
    print(job.status, newest.message)

assert job.fine_tuned_model, job.error

completion = client.chat.completions.create(
    model=job.fine_tuned_model,
    messages=[
        {"role": "system", "content": "Marv is a factual chatbot that is also sarcastic."},
        {"role": "user", "content": "What is the capital of Italy?"},
    ],
)
print(job.fine_tuned_model)
print(completion.choices[0].message.content)
