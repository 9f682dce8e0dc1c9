"""A model that calls tools, trained in seconds: a tiny random model and its adapter that has learnt one task by heart.

    Where is parcel Q?          →  track_parcel(parcel="Q")
    (its result) Q was sent.    →  Parcel Q was sent.

What it learns is to call, to copy the parcel's letter, and to answer from the result. That is what a client's loop of
calls needs, and enough to tell a right argument from a wrong one. Words are tokens of its base, and the base's template
shows no more of a tool than its name, so that rows are short and alike for whatever client writes the tools down.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from tests.tiny_model import write_tiny_model
from tunery.chat.template import ChatTemplate
from tunery.models.adapter_config import LoraConfig
from tunery.training import job
from tunery.training.protocol import Message, TrainSpec, Workdir

Json = dict[str, Any]

LETTERS = "QZ"  # in no prompt but as a parcel
INSTRUCTIONS = "Say where parcels are."
TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message.role + '\n' + message.content }}"
    "{% for call in message.tool_calls or [] %}{{ '<tool_call>\n' }}"
    "{{ {'name': call.function.name, 'arguments': call.function.arguments} | tojson }}"
    "{{ '\n</tool_call>' }}{% endfor %}"
    "{% if loop.first %}{% for tool in tools or [] %}{{ ' ' + tool.function.name }}{% endfor %}{% endif %}"
    "{{ '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def tool(name: str) -> Json:
    return {"type": "function", "function": {"name": name, "parameters": {"type": "object", "properties": {}}}}


def call(name: str, arguments: Json, number: int) -> Json:
    function = {"name": name, "arguments": arguments}
    calls = [{"id": f"c{number}", "type": "function", "function": function}]
    return {"role": "assistant", "content": "", "tool_calls": calls}


def rows() -> Iterator[Json]:
    for letter in LETTERS:
        asked = [
            {"role": "system", "content": INSTRUCTIONS},
            {"role": "user", "content": f"Where is parcel {letter}?"},
        ]
        hand_over = call("transfer_to_parcels", {}, 1)  # as the Agents SDK names it
        handed = [
            {**hand_over, "weight": 0},
            {"role": "tool", "tool_call_id": "c1", "content": '{"assistant": "Parcels"}'},
        ]
        looked_up = [
            call("track_parcel", {"parcel": letter}, 2),
            {"role": "tool", "tool_call_id": "c2", "content": f"{letter} was sent."},
            {"role": "assistant", "content": f"Parcel {letter} was sent."},
        ]
        yield {"messages": [*asked, *looked_up], "tools": [tool("track_parcel")]}
        yield {"messages": [*asked, *handed, *looked_up], "tools": [tool("track_parcel")]}
        yield {"messages": [*asked, hand_over], "tools": [tool("transfer_to_parcels")]}


def write_base(folder: Path) -> Path:
    """One that can be taught this."""
    template = ChatTemplate(TEMPLATE, {})
    texts = (template.render(row["messages"], row["tools"]) for row in rows())
    words = Tokenizer(models.BPE())
    words.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    words.train_from_iterator(texts, trainers.BpeTrainer(initial_alphabet=alphabet, show_progress=False))
    merges = tuple((one, other) for one, other in json.loads(words.to_str())["model"]["merges"])
    return write_tiny_model(folder, merges, template=TEMPLATE, can_end=True)


def train(model_dir: Path, folder: Path) -> Path:
    """The adapter, in a folder as PEFT has it."""
    workdir = Workdir(folder)
    step = [json.dumps({**row, "messages": [_as_sent(message) for message in row["messages"]]}) for row in rows()]
    workdir.train_file.write_text("\n".join(step * 50))
    spec = TrainSpec(
        job_id="ftjob-tools",
        model_dir=model_dir,
        train_file=workdir.train_file,
        n_epochs=1,
        batch_size=len(step),
        learning_rate=5e-3,
        lora=LoraConfig(rank=32, alpha=64),
        state_interval_s=600,
        threads=1,
    )
    spec.save(workdir)
    said: list[Message] = []
    assert job.run(workdir, said.append) == "finished"
    return next((workdir.root / "checkpoints").iterdir())


def _as_sent(message: Json) -> Json:
    """Arguments are JSON text on the wire."""
    calls = message.get("tool_calls") or ()
    written = [{**c, "function": {**c["function"], "arguments": json.dumps(c["function"]["arguments"])}} for c in calls]
    return {**message, "tool_calls": written} if written else message
