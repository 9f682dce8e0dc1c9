"""`python benchmarks/improve.py --json`: whether `tunery improve` says the truth on the ticket example.

worst_rank   of ten labels that were changed on purpose, the place of the last one among the rows by doubt (of 168);
             the worst of all seeds, and `ranks` by seed; all_found: it is among the first 30, which `tunery improve`
             shows
curve        the loss that quarters and halves foretell for all rows, with its interval, and the one that was measured
gain         what twice the rows would take away of it

`--seeds` says how often other labels are changed (1). It trains about six small jobs, and three more for each seed.
"""

import argparse
import json
import os
import random
import sys
import tempfile
import threading
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from openai import OpenAI

from tunery.cli.connection import client_to, get_own, post_own
from tunery.cli.serve import prepared, start
from tunery.cli.watch import follow
from tunery.domain.files import example_file
from tunery.improve import curve, rows
from tunery.improve.jobs import Server, Subject, open_job
from tunery.settings import load_settings

BASE = "gpt-4o-mini-2024-07-18"
NUM_CHANGED, NUM_SHOWN = 10, 30


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as home:
        os.environ["TUNERY_HOME"] = home
        with prepared(load_settings(port=0)) as server:
            address = start(server, threading.Event())
            assert address is not None and address.first_key is not None
            result = measure(client_to(address.base_url, address.first_key), options.seeds)
    sys.stdout.write(json.dumps(result, indent=None if options.json else 2) + "\n")
    return 0


def measure(client: OpenAI, seeds: int) -> dict[str, Any]:
    lines = example_file("tickets_train.jsonl").read_text("utf-8").strip().split("\n")
    ranks = [worst_rank(client, lines, seed) for seed in range(seeds)]
    subject = trained(client, lines)
    learnt = curve.read(subject, waited(client, curve.start(subject)))
    return {
        "worst_rank": max(ranks),
        "ranks": ranks,
        "all_found": max(ranks) <= NUM_SHOWN,
        "num_rows": len(lines),
        "curve": {"expected": asdict(learnt.expected), "measured": learnt.measured.loss, "holds": learnt.holds},
        "parts": [asdict(part) for part in learnt.parts],
        "gain": asdict(learnt.gain),
    }


def worst_rank(client: OpenAI, lines: list[str], seed: int) -> int:
    changed_lines, changed = with_changed_labels(lines, seed)
    subject = trained(client, changed_lines)
    found = rows.read(subject, waited(client, rows.start(subject)), most=len(lines)).rows
    places = sorted(place for place, doubt in enumerate(found, 1) if doubt.line in changed)
    sys.stderr.write(f"seed {seed}: the changed labels are at {places}\n")
    return places[-1]


def with_changed_labels(lines: list[str], seed: int) -> tuple[list[str], set[int]]:
    """Some rows get each other's labels. The lines, and the numbers of those rows."""
    rng, made = random.Random(seed), [json.loads(line) for line in lines]
    while True:
        chosen = rng.sample(range(len(made)), NUM_CHANGED)
        labels = [made[position]["messages"][-1]["content"] for position in chosen]
        if all(one != other for one, other in zip(labels, [*labels[1:], labels[0]], strict=True)):
            break
    for position, label in zip(chosen, [*labels[1:], labels[0]], strict=True):
        made[position]["messages"][-1]["content"] = label
    return [json.dumps(row) for row in made], {position + 1 for position in chosen}


def trained(client: OpenAI, lines: list[str]) -> Subject:
    """A job on the lines that has ended, measured on the tickets that were held back."""
    training = client.files.create(file=("tickets.jsonl", "\n".join(lines).encode()), purpose="fine-tune")
    test = Path(example_file("tickets_test.jsonl"))
    held_back = client.files.create(file=test, purpose="fine-tune")
    job = client.fine_tuning.jobs.create(model=BASE, training_file=training.id, validation_file=held_back.id, seed=1)
    waited(client, [job.id])
    return open_job(Server(client, partial(get_own, client), partial(post_own, client)), job.id)


def waited(client: OpenAI, job_ids: list[str]) -> list[str]:
    for job_id in job_ids:
        job = follow(client, job_id, lambda _, __: None)
        sys.stderr.write(f"{job.id} {job.status}, {(job.metadata or {}).get('improve_part', 'a job')}\n")
    return job_ids


if __name__ == "__main__":
    sys.exit(main())
