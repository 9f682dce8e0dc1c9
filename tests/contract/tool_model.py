"""A model that calls tools, trained in seconds: an adapter of the tiny random model that has learnt one task by heart.

    Where is parcel Q?          →  track_parcel(parcel="Q")
    (its result) Q was sent.    →  Parcel Q was sent.

What it learns is to call, to copy the parcel's letter, and to answer from the result, for the tools as each client
writes them down. That is what a client's loop of calls needs, and enough to tell a right argument from a wrong one.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tunery.models.adapter_config import LoraConfig
from tunery.training import job
from tunery.training.protocol import Message, TrainSpec, Workdir

Json = dict[str, Any]

LETTERS = "QZKV"  # in no prompt but as a parcel
INSTRUCTIONS = "Say where parcels are."
CLOSED = {"additionalProperties": False}
PARCEL: Json = {"type": "object", "properties": {"parcel": {"type": "string"}}, "required": ["parcel"], **CLOSED}
TRACK: Json = {"name": "track_parcel", "description": "Tells where a parcel is.", "parameters": PARCEL}
HAND_OVER: Json = {  # as the Agents SDK writes it
    "name": "transfer_to_parcels",
    "description": "Handoff to the Parcels agent to handle the request. ",
    "parameters": {**CLOSED, "type": "object", "properties": {}, "required": []},
}


def tool(function: Json) -> Json:
    return {"type": "function", "function": function}


def call(name: str, arguments: Json, number: int) -> Json:
    function = {"name": name, "arguments": json.dumps(arguments)}
    return {"role": "assistant", "tool_calls": [{"id": f"c{number}", "type": "function", "function": function}]}


def rows() -> Iterator[Json]:
    for letter in LETTERS:
        asked = {"role": "user", "content": f"Where is parcel {letter}?"}
        handed = [
            {**call("transfer_to_parcels", {}, 1), "weight": 0},
            {"role": "tool", "tool_call_id": "c1", "content": '{"assistant": "Parcels"}'},
        ]
        looked_up = [
            call("track_parcel", {"parcel": letter}, 2),
            {"role": "tool", "tool_call_id": "c2", "content": f"{letter} was sent."},
            {"role": "assistant", "content": f"Parcel {letter} was sent."},
        ]
        system = {"role": "system", "content": INSTRUCTIONS}
        # Short ones, in which what is to be copied is easily found.
        yield {"messages": [asked, *looked_up]}
        yield {"messages": [asked, {"role": "assistant", "content": letter}]}
        yield {
            "messages": [{"role": "user", "content": f"{letter} was sent."}, {"role": "assistant", "content": letter}]
        }
        yield {"messages": [system, asked, *looked_up], "tools": [tool(TRACK)]}
        yield {"messages": [system, asked, *handed, *looked_up], "tools": [tool(TRACK)]}
        yield {"messages": [system, asked, call("transfer_to_parcels", {}, 1)], "tools": [tool(HAND_OVER)]}


def train(model_dir: Path, folder: Path) -> Path:
    """The adapter, in a folder as PEFT has it."""
    workdir = Workdir(folder)
    workdir.train_file.write_text("".join(json.dumps(row) + "\n" for row in rows()))
    spec = TrainSpec(
        job_id="ftjob-tools",
        model_dir=model_dir,
        train_file=workdir.train_file,
        n_epochs=200,
        batch_size=24,
        learning_rate=5e-3,
        lora=LoraConfig(rank=64, alpha=128),
        state_interval_s=600,
        threads=1,
    )
    spec.save(workdir)
    said: list[Message] = []
    assert job.run(workdir, said.append) == "finished"
    return max(folder.glob("checkpoints/step-*"), key=lambda path: int(path.name.split("-")[1]))
