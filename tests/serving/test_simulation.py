"""An hour of arrivals through the scheduler: every invariant after every step, and nobody left behind."""

import random
from collections import deque
from collections.abc import Iterator

from tests.serving.builders import make_scheduler, make_sequence
from tunery.serving.scheduler import Scheduler
from tunery.serving.sequence import Batch, Scheduled, Sequence

SECONDS = 3600
ARRIVALS_PER_S = 1.0
NUM_ADAPTERS = 40


class Simulation:
    """A clock, a stream of requests, and an engine that needs 10 ms and 1 ms a prompt token for a step.

    `given_up`: the share of the less urgent steps that are not computed to their end.
    """

    def __init__(self, seed: int, priorities: tuple[int, ...] = (0,), given_up: float = 0) -> None:
        self.random = random.Random(seed)
        self.given_up = given_up
        self.keys: dict[tuple[int, int], int] = {}  # what lies in the cache, by block and place
        self.priorities = priorities
        self.scheduler: Scheduler = make_scheduler(
            num_blocks=40,
            block_size=16,
            max_adapters=6,
            max_num_seqs=12,
            max_num_batched_tokens=256,
            max_skipped_steps=100,
        )
        self.now = 0.0
        self.lengths: dict[str, int] = {}
        self.arrived_at: dict[str, float] = {}
        self.loading: deque[tuple[float, str]] = deque()
        self.live: dict[str, Sequence] = {}
        self.waits: list[float] = []
        self.counts = {"finished": 0, "aborted": 0, "arrived": 0, "cached": 0, "loads": 0, "given up": 0}

    def arrive(self) -> None:
        draw = self.random
        adapter = None if draw.random() < 0.3 else f"a{min(int(draw.expovariate(0.12)), NUM_ADAPTERS - 1)}"
        system = [draw.randrange(4)] * draw.choice((0, 48, 160))
        prompt = system + [draw.randrange(1000) for _ in range(draw.randrange(1, 120))]
        sequence = make_sequence(prompt, adapter=adapter, salt=draw.choice(("p", "q")))
        sequence.priority = draw.choice(self.priorities)
        self.lengths[sequence.id] = min(1 + int(draw.expovariate(1 / 14)), 300)
        self.arrived_at[sequence.id] = self.now
        self.live[sequence.id] = sequence
        self.scheduler.add(sequence)
        self.counts["arrived"] += 1

    def finish_loads(self) -> None:
        self.scheduler.slots.take_evictions()
        for name in self.scheduler.slots.take_loads():
            self.loading.append((self.now + 0.08, name))
            self.counts["loads"] += 1
        while self.loading and self.loading[0][0] <= self.now:
            self.scheduler.slots.mark_ready(self.loading.popleft()[1])

    def abort_some(self) -> None:
        if self.live and self.random.random() < 0.0005:
            self.end(self.random.choice(list(self.live.values())), "aborted")

    def end(self, sequence: Sequence, how: str) -> None:
        self.scheduler.finish(sequence)
        del self.live[sequence.id]
        self.counts[how] += 1

    def step(self) -> None:
        batch = self.scheduler.schedule()
        self.scheduler.check()
        self.finish_loads()
        if batch is None:
            self.now += 0.02
            return
        assert sum(run.num_tokens for run in batch.runs) <= self.scheduler.limits.max_num_batched_tokens
        assert len({run.sequence.priority for run in batch.runs}) == 1
        self.now += 0.01 + 0.001 * sum(run.num_tokens for run in batch.prefill)
        self.write(batch)
        if batch.priority > 0 and self.random.random() < self.given_up:
            self.spoil(batch)
            self.scheduler.undo(batch)
            self.scheduler.check()
            self.counts["given up"] += 1
            return
        self.read(batch.prefill)
        self.abort_some()
        ended = [run.sequence for run in batch.runs if run.needs_sample and run.sequence.id in self.live]
        self.scheduler.update(batch, {sequence.id: self.random.randrange(1000) for sequence in ended})
        for sequence in ended:
            if sequence.num_output_tokens == 1 and sequence.priority == 0:
                self.waits.append(self.now - self.arrived_at[sequence.id])
                self.counts["cached"] += sequence.num_cached_tokens
            if sequence.num_output_tokens >= self.lengths[sequence.id]:
                self.end(sequence, "finished")
        self.scheduler.check()

    def write(self, batch: Batch) -> None:
        for run in batch.runs:
            self.keys.update(list(keys_of(run.sequence, 16))[run.start : run.start + run.num_tokens])

    def spoil(self, batch: Batch) -> None:
        """As a pass does that ends in its middle."""
        for run in batch.runs:
            places = list(keys_of(run.sequence, 16))[run.start : run.start + run.num_tokens]
            self.keys.update((place, 0) for place, _ in places)

    def read(self, runs: list[Scheduled]) -> None:
        """Everything before and in a run is what it should be, whoever wrote it."""
        for run in runs:
            for place, key in list(keys_of(run.sequence, 16))[: run.start + run.num_tokens]:
                assert self.keys[place] == key

    def run(self) -> None:
        next_arrival = 0.0
        while self.now < SECONDS or self.live:
            while next_arrival <= min(self.now, SECONDS):
                self.arrive()
                next_arrival += self.random.expovariate(ARRIVALS_PER_S)
            self.step()
            assert self.now < SECONDS * 1.5, "work is left that never runs"


def keys_of(sequence: Sequence, block_size: int) -> Iterator[tuple[tuple[int, int], int]]:
    """Of each token that has a place: the place, and a number for what is known there of the sequence's beginning."""
    key = hash((sequence.adapter, sequence.salt))
    places = ((block, offset) for block in sequence.block_table for offset in range(block_size))
    for token_id, place in zip(sequence.token_ids, places, strict=False):
        key = hash((key, token_id))
        yield place, key


def test_an_hour_of_arrivals_breaks_no_invariant_and_starves_nobody() -> None:
    simulation = Simulation(seed=6)
    simulation.run()

    counts, scheduler = simulation.counts, simulation.scheduler
    assert counts["finished"] + counts["aborted"] == counts["arrived"] > 3000
    assert counts["aborted"] > 10
    assert scheduler.num_preemptions > 3
    assert counts["loads"] > 100
    assert counts["cached"] > 5_000
    assert max(simulation.waits) < 60
    assert scheduler.blocks.num_used == 0
    assert not scheduler.waiting and not scheduler.running


def test_an_hour_with_batches_leaves_none_of_them_behind_and_live_ones_wait_less() -> None:
    mixed = Simulation(seed=6, priorities=(0, 1))
    mixed.run()
    alike = Simulation(seed=6)
    alike.run()

    assert mixed.counts["finished"] + mixed.counts["aborted"] == mixed.counts["arrived"] > 3000
    assert mixed.scheduler.num_preemptions > 3
    assert not mixed.scheduler.waiting and not mixed.scheduler.running and mixed.scheduler.blocks.num_used == 0
    assert sum(mixed.waits) / len(mixed.waits) < sum(alike.waits) / len(alike.waits)


def test_an_hour_of_steps_that_are_given_up_spoils_no_answer_and_leaves_none_behind() -> None:
    simulation = Simulation(seed=8, priorities=(0, 1), given_up=0.3)
    simulation.run()

    counts, scheduler = simulation.counts, simulation.scheduler
    assert counts["finished"] + counts["aborted"] == counts["arrived"] > 3000
    assert counts["given up"] > 1000
    assert counts["cached"] > 2_000
    assert not scheduler.waiting and not scheduler.running and scheduler.blocks.num_used == 0


def test_a_flood_of_one_tenant_delays_another_by_few_steps() -> None:
    """Requests of 128 long answers, some of long prompts; now and then a short one of another."""
    chance = random.Random(3)
    scheduler = make_scheduler(num_blocks=400, block_size=16, max_num_seqs=12, max_num_batched_tokens=256)
    waited: dict[str, int] = {}
    short: dict[str, Sequence] = {}
    for number in range(1500):
        if number % 25 == 0 and number < 1000:
            prompt = [chance.randrange(1000) for _ in range(chance.choice((20, 900)))]
            for _ in range(128):
                scheduler.add(make_sequence(prompt, salt="flood"))
        if number % 40 == 7:
            sequence = make_sequence([chance.randrange(1000) for _ in range(100)], salt="other")
            scheduler.add(sequence)
            short[sequence.id], waited[sequence.id] = sequence, 0
        batch = scheduler.schedule()
        scheduler.check()
        if batch is None:
            break
        assert sum(run.num_tokens for run in batch.runs) <= scheduler.limits.max_num_batched_tokens
        for name, sequence in short.items():
            waited[name] += not sequence.num_output_tokens
        ended = [run.sequence for run in batch.runs if run.needs_sample]
        scheduler.update(batch, {sequence.id: 1 for sequence in ended})
        for sequence in ended:
            if sequence.num_output_tokens >= (10 if sequence.id in short else 300):
                scheduler.finish(sequence)
                short.pop(sequence.id, None)
        scheduler.check()

    assert len(waited) > 20
    assert max(waited.values()) <= 4, "a place is given back in one step, and a hundred tokens are half of the next"
    assert scheduler.num_preemptions <= 3 * len(waited) + 60
