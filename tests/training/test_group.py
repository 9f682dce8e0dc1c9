"""Trainers that share a job's batches take the steps of one alone."""

import json
import random
import shutil
from dataclasses import replace
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.fixtures_services import free_port
from tests.training.group_process import in_fp32
from tests.training.process import CONTEXT, start
from tests.training.test_restart import curve, said, wait_for_steps
from tunery.domain.jobs import Method
from tunery.models.adapter_config import LoraConfig
from tunery.training.batching import shares
from tunery.training.child import EXIT_LEFT
from tunery.training.forward.packing import Row
from tunery.training.protocol import Failed, Finished, Started, TrainSpec, Workdir, saved_step
from tunery.training.state import Measured, save_measured

PROMPTS = ["Say it.", "Say it at length, with all that belongs to it, and leave nothing out."]


def rows(method: Method, count: int) -> list[dict[str, Any]]:
    """Answers of a word to a hundred, behind prompts that many share; some are not trained."""
    rng = random.Random(4)

    def answer(most: int) -> dict[str, Any]:
        text = " ".join(rng.choice(["one", "two", "three", "a thousand"]) for _ in range(rng.choice([1, most])))
        return {"role": "assistant", "content": text}

    def question() -> dict[str, Any]:
        return {"role": "user", "content": rng.choice(PROMPTS)}

    if method == "dpo":
        return [
            {"input": {"messages": [question()]}, "preferred_output": [answer(30)], "non_preferred_output": [answer(9)]}
            for _ in range(count)
        ]
    return [{"messages": [question(), {**answer(100), "weight": int(number % 5 > 0)}]} for number in range(count)]


@pytest.fixture(params=["supervised", "dpo"])
def spec(request: pytest.FixtureRequest, tiny_model_dir: Path, tmp_path: Path) -> TrainSpec:
    train, valid = tmp_path / "train.jsonl", tmp_path / "valid.jsonl"
    train.write_text("".join(json.dumps(row) + "\n" for row in rows(request.param, 11)))
    valid.write_text("".join(json.dumps(row) + "\n" for row in rows(request.param, 3)))
    return TrainSpec(
        job_id="ftjob-1",
        model_dir=tiny_model_dir,
        train_file=train,
        valid_file=valid,
        method=request.param,
        n_epochs=4,
        batch_size=4,  # the last batch has three: fewer than the trainers may be
        learning_rate=1e-2,
        seed=7,
        lora=LoraConfig(rank=4, alpha=8.0),
        threads=1,
    )


def steps_of(spec: TrainSpec, folder: Path, number: int) -> list[dict[str, list[float]]]:
    spec.save(Workdir(folder))
    arguments = (number, f"127.0.0.1:{free_port()}")
    processes = [CONTEXT.Process(target=in_fp32, args=(str(folder), rank, *arguments)) for rank in range(number)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    return [json.loads((folder / f"{number}-{rank}.json").read_text()) for rank in range(number)]


@pytest.mark.parametrize("number", [2, 5])
def test_a_group_takes_the_steps_of_one(spec: TrainSpec, tmp_path: Path, number: int) -> None:
    """Five for batches of four rows: one has nothing to do."""
    (alone,), group = steps_of(spec, tmp_path, 1), steps_of(spec, tmp_path, number)
    assert alone["seen"][0] != alone["seen"][-1]
    assert group[0]["seen"] == pytest.approx(alone["seen"], abs=1e-4)
    assert group[0]["weights"] == pytest.approx(alone["weights"], abs=1e-3)
    assert all(one == group[0] for one in group), "all have the same adapter, to the bit"


def start_group(spec: TrainSpec, group: list[Workdir]) -> list[BaseProcess]:
    meeting = f"127.0.0.1:{free_port()}"
    for rank, workdir in enumerate(group):
        workdir.root.mkdir(exist_ok=True)
        replace(spec, num_trainers=len(group), rank=rank, meeting=meeting).save(workdir)
        save_measured(workdir.state, Measured(torch.float32, 4096))  # it would depend on what else the machine does
    return [start(workdir) for workdir in group]


def train(spec: TrainSpec, group: list[Workdir]) -> None:
    for process in start_group(spec, group):
        process.join(120)
        assert process.exitcode == 0, (group[0].root / "log").read_text()


def test_when_one_is_killed_the_others_leave_their_state_and_a_new_group_goes_on(
    spec: TrainSpec, tmp_path: Path
) -> None:
    spec = replace(spec, n_epochs=40)
    undisturbed, group = ([Workdir(tmp_path / f"{name}{rank}") for rank in range(2)] for name in ("whole", "cut"))
    train(spec, undisturbed)
    first, second = start_group(spec, group)
    wait_for_steps(group[0], first, 5)
    second.kill()
    first.join(60)
    assert first.exitcode == EXIT_LEFT
    assert said(group[0], Failed) == said(group[0], Finished) == []
    step, total = saved_step(group[0].state), said(group[0], Started)[0].total_steps
    assert step is not None and 5 <= step < total
    shutil.copytree(group[0].state, group[1].state, dirs_exist_ok=True)  # as another node gets it
    train(spec, group)
    assert len(curve(group[0])) == total
    assert curve(group[0]) == curve(undisturbed[0])


def test_shares_are_all_examples_each_once_about_as_many_tokens_and_keep_together_what_is_shared() -> None:
    rng = random.Random(1)
    prompt = list(range(50))
    stranger = [[Row([200 + n, *(rng.randrange(99) for _ in range(rng.choice([3, 80])))], [])] for n in range(20)]
    sharing = [[Row([*prompt, 100 + n], [])] for n in range(10)]
    groups = stranger + sharing
    parts = shares(groups, 3)
    assert sorted(index for part in parts for index in part) == list(range(30))
    assert sum(any(index >= 20 for index in part) for part in parts) == 1, "ten rows with one prompt are one's"
    sizes = [sum(len(groups[index][0].token_ids) for index in part if index < 20) for part in parts]
    assert max(sizes) - min(sizes) < 200
    assert sorted(map(len, shares(groups[:2], 5))) == [0, 0, 0, 1, 1]
