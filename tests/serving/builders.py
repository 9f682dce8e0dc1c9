"""Small schedulers and sequences for tests, and a model that draws tokens by counting."""

from itertools import count

from tunery.serving.blocks import BlockPool
from tunery.serving.scheduler import Limits, Scheduler
from tunery.serving.sequence import Batch, Sequence
from tunery.serving.slots import AdapterSlots

_numbers = count()


def make_scheduler(
    *,
    num_blocks: int = 32,
    block_size: int = 4,
    max_adapters: int = 2,
    max_num_seqs: int = 8,
    max_num_batched_tokens: int = 64,
    max_skipped_steps: int = 20,
) -> Scheduler:
    limits = Limits(max_num_batched_tokens, max_num_seqs, max_skipped_steps)
    return Scheduler(limits, BlockPool(num_blocks, block_size), AdapterSlots(max_adapters))


def make_sequence(
    prompt: list[int] | int = 6,
    *,
    adapter: str | None = None,
    salt: str = "",
    priority: int = 0,
    scored_from: int | None = None,
) -> Sequence:
    ids = list(range(100, 100 + prompt)) if isinstance(prompt, int) else list(prompt)
    values = {"adapter": adapter, "salt": salt, "priority": priority, "scored_from": scored_from}
    return Sequence(f"s{next(_numbers)}", ids, len(ids), **values)


def compute(scheduler: Scheduler, batch: Batch, token: int = 7) -> list[Sequence]:
    """Pretend the batch was computed; every sequence that reached its end draws `token`. Returns those sequences."""
    ended = [run.sequence for run in batch.runs if run.needs_sample]
    scheduler.update(batch, {sequence.id: token for sequence in ended})
    scheduler.check()
    return ended


def step(scheduler: Scheduler) -> Batch | None:
    """One step with adapters that load at once."""
    batch = scheduler.schedule()
    scheduler.check()
    scheduler.slots.take_evictions()
    for name in scheduler.slots.take_loads():
        scheduler.slots.mark_ready(name)
    if batch is not None:
        compute(scheduler, batch)
    return batch
