import subprocess
import sys
from collections import Counter

import pytest

from tests.serving.builders import compute, make_scheduler, make_sequence, step
from tunery.serving.scheduler import Scheduler
from tunery.serving.sequence import Batch, Sequence, SequenceStatus


def test_prompt_is_computed_first_then_one_token_a_step() -> None:
    scheduler = make_scheduler()
    sequence = make_sequence(6)
    scheduler.add(sequence)

    first = step(scheduler)
    second = step(scheduler)

    assert first is not None and [run.num_tokens for run in first.prefill] == [6]
    assert second is not None and [run.start for run in second.decode] == [6]
    assert sequence.num_output_tokens == 2


def test_long_prompt_is_cut_into_chunks_of_the_token_budget() -> None:
    scheduler = make_scheduler(max_num_batched_tokens=16)
    scheduler.add(make_sequence(40))

    batches = [step(scheduler) for _ in range(3)]

    assert [batch.prefill[0].num_tokens for batch in batches if batch] == [16, 16, 8]
    assert [batch.prefill[0].needs_sample for batch in batches if batch] == [False, False, False]
    assert scheduler.running[0].num_output_tokens == 1


def test_running_answers_come_before_a_long_prompt() -> None:
    scheduler = make_scheduler(max_num_batched_tokens=16)
    short, long = make_sequence([1, 2, 3]), make_sequence(60)
    scheduler.add(short)
    scheduler.add(long)

    batches = [step(scheduler) for _ in range(3)]

    assert batches[0] and [run.num_tokens for run in batches[0].prefill] == [3, 13]
    for batch in batches[1:]:
        assert batch is not None
        assert [run.sequence for run in batch.decode] == [short]
        assert batch.prefill[0].num_tokens == 15


def test_no_more_than_the_allowed_sequences_run() -> None:
    scheduler = make_scheduler(max_num_seqs=2)
    for _ in range(5):
        scheduler.add(make_sequence(3))

    step(scheduler)

    assert (len(scheduler.running), len(scheduler.waiting)) == (2, 3)


def test_equal_prompts_that_start_together_are_computed_once() -> None:
    scheduler = make_scheduler()
    sequences = [make_sequence(10) for _ in range(3)]
    for sequence in sequences:
        scheduler.add(sequence)

    batch = step(scheduler)

    assert batch is not None
    assert [run.num_tokens for run in batch.prefill] == [10, 2, 2]
    assert [sequence.num_cached_tokens for sequence in sequences] == [0, 8, 8]
    assert sequences[1].block_table[:2] == sequences[0].block_table[:2]


def test_a_finished_answer_is_found_by_the_next_turn_of_its_conversation() -> None:
    scheduler = make_scheduler()
    first = make_sequence(6)
    scheduler.add(first)
    for _ in range(7):
        step(scheduler)
    scheduler.finish(first)

    following = make_sequence([*first.token_ids, 1, 2])
    scheduler.add(following)
    step(scheduler)

    assert following.num_cached_tokens == 12  # of 13 tokens, whole blocks of 4 that were computed


def test_a_whole_cached_prompt_leaves_one_token_to_compute() -> None:
    scheduler = make_scheduler()
    scheduler.add(make_sequence(8))
    step(scheduler)

    again = make_sequence(8)
    scheduler.add(again)
    step(scheduler)

    assert again.num_cached_tokens == 4


def test_prefixes_are_not_shared_between_salts_or_adapters() -> None:
    scheduler = make_scheduler()
    for adapter in ("a", "b"):
        scheduler.slots.request(adapter)
        scheduler.slots.mark_ready(adapter)
    sequences = [
        make_sequence(9, salt="one"),
        make_sequence(9, salt="two"),
        make_sequence(9, adapter="a"),
        make_sequence(9, adapter="b"),
    ]
    for sequence in sequences:
        scheduler.add(sequence)
        step(scheduler)

    assert [sequence.num_cached_tokens for sequence in sequences] == [0, 0, 0, 0]


def test_a_new_adapter_under_an_old_name_does_not_find_the_old_prefixes() -> None:
    scheduler = make_scheduler()
    first, second = make_sequence(9, adapter="a"), make_sequence(9, adapter="a")
    scheduler.add(first)
    step(scheduler)
    step(scheduler)
    scheduler.finish(first)
    scheduler.slots.remove("a")
    scheduler.forget_adapter("a")
    scheduler.add(second)
    step(scheduler)
    step(scheduler)

    assert second.num_cached_tokens == 0
    assert second.num_output_tokens == 1


def test_the_youngest_gives_way_when_blocks_run_out_and_catches_up_later() -> None:
    scheduler = make_scheduler(num_blocks=6)
    old, young = make_sequence(8), make_sequence([1, 2, 3, 4, 5, 6, 7, 8])
    scheduler.add(old)
    scheduler.add(young)
    while not scheduler.num_preemptions:
        step(scheduler)

    assert young.status is SequenceStatus.WAITING
    assert next(iter(scheduler.waiting)) is young
    assert old.status is SequenceStatus.RUNNING

    outputs = young.num_output_tokens
    scheduler.finish(old)
    step(scheduler)
    assert young.num_output_tokens == outputs + 1


def test_a_preempted_sequence_reports_the_cache_hit_of_its_first_start_only() -> None:
    scheduler = make_scheduler(num_blocks=6)
    old, young = make_sequence(8), make_sequence([1, 2, 3, 4, 5, 6, 7, 8])
    scheduler.add(old)
    scheduler.add(young)
    while not scheduler.num_preemptions:
        step(scheduler)
    scheduler.finish(old)
    step(scheduler)

    assert young.status is SequenceStatus.RUNNING
    assert young.num_cached_tokens == 0


def test_abort_gives_back_blocks_and_slot_wherever_the_sequence_is() -> None:
    scheduler = make_scheduler(max_num_seqs=1)
    running, waiting = make_sequence(9, adapter="a"), make_sequence(5)
    scheduler.add(running)
    step(scheduler)
    step(scheduler)
    scheduler.add(waiting)

    scheduler.abort(running)
    scheduler.abort(waiting)
    scheduler.abort(waiting)

    scheduler.check()
    assert not scheduler.waiting and not scheduler.running
    assert scheduler.blocks.num_used == 0


def test_abort_between_schedule_and_update_leaves_no_trace() -> None:
    scheduler = make_scheduler()
    kept, aborted = make_sequence(5), make_sequence([9, 8, 7, 6, 5])
    scheduler.add(kept)
    scheduler.add(aborted)
    batch = scheduler.schedule()
    assert batch is not None

    scheduler.abort(aborted)
    compute(scheduler, batch)

    assert kept.num_output_tokens == 1
    assert aborted.num_output_tokens == 0


def test_a_sequence_whose_adapter_is_not_loaded_does_not_hold_up_others() -> None:
    scheduler = make_scheduler()
    blocked, free = make_sequence(5, adapter="a"), make_sequence(5)
    scheduler.add(blocked)
    scheduler.add(free)

    batch = scheduler.schedule()

    assert batch is not None
    assert [run.sequence for run in batch.runs] == [free]
    assert scheduler.slots.take_loads() == ["a"]
    scheduler.slots.mark_ready("a")
    compute(scheduler, batch)
    step(scheduler)
    assert blocked.status is SequenceStatus.RUNNING


def test_a_sequence_that_waits_for_a_slot_is_not_overtaken_for_ever() -> None:
    scheduler = make_scheduler(max_adapters=1, max_skipped_steps=5, num_blocks=64)
    scheduler.add(make_sequence(3, adapter="busy"))
    step(scheduler)
    step(scheduler)
    patient = make_sequence(3, adapter="patient")
    scheduler.add(patient)
    for _ in range(30):
        newcomer = make_sequence(3, adapter="busy")
        scheduler.add(newcomer)
        step(scheduler)
        if len(scheduler.running) > 1:
            scheduler.finish(scheduler.running[0])
        if patient.num_skipped_steps > 5 and scheduler.running and scheduler.running[0] is not patient:
            scheduler.finish(scheduler.running[0])

    assert patient.status is SequenceStatus.RUNNING or patient.num_output_tokens > 0


def test_cached_prefixes_are_forgotten_least_recently_used_first() -> None:
    scheduler = make_scheduler(num_blocks=8)
    prompts = [[n] * 9 for n in (1, 2, 3)]
    for prompt in prompts[:2]:
        sequence = make_sequence(prompt)
        scheduler.add(sequence)
        step(scheduler)
        scheduler.finish(sequence)
    again = make_sequence(prompts[0])
    scheduler.add(again)
    step(scheduler)
    scheduler.finish(again)
    big = make_sequence([5] * 20)
    scheduler.add(big)
    step(scheduler)
    scheduler.finish(big)
    scheduler.check()

    later = [make_sequence(prompt) for prompt in prompts[:2]]
    for sequence in later:
        scheduler.add(sequence)
        step(scheduler)
        scheduler.finish(sequence)

    assert [sequence.num_cached_tokens for sequence in later] == [8, 0]


def test_deciding_needs_no_torch() -> None:
    modules = "scheduler blocks slots sequence requests text answer constraints settings"
    code = "import sys\n" + "".join(f"import tunery.serving.{name}\n" for name in modules.split())
    code += "assert 'torch' not in sys.modules and 'transformers' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def many(scheduler: Scheduler, tenant: str, number: int, prompt: int = 3) -> list[Sequence]:
    sequences = [make_sequence([index, *range(prompt - 1)], salt=tenant) for index in range(number)]
    for sequence in sequences:
        scheduler.add(sequence)
    return sequences


def running(scheduler: Scheduler) -> Counter[str]:
    return Counter(sequence.salt for sequence in scheduler.running)


def test_tenants_take_turns_in_starting_whoever_came_first() -> None:
    scheduler = make_scheduler(max_num_seqs=6, num_blocks=64)
    for tenant, number in (("a", 20), ("b", 20), ("c", 1)):
        many(scheduler, tenant, number)
    step(scheduler)

    assert running(scheduler) == {"a": 3, "b": 2, "c": 1}


def test_a_tenant_alone_has_every_place_in_order_of_arrival() -> None:
    scheduler = make_scheduler(max_num_seqs=6)
    sequences = many(scheduler, "a", 20)
    step(scheduler)

    assert scheduler.running == sequences[:6] and not scheduler.num_preemptions


def test_who_has_taken_every_place_gives_back_for_a_newcomer_until_both_have_the_same() -> None:
    scheduler = make_scheduler(max_num_seqs=6, num_blocks=64)
    many(scheduler, "a", 20)
    for _ in range(3):
        step(scheduler)
    many(scheduler, "b", 2)
    for _ in range(10):
        step(scheduler)
    assert running(scheduler) == {"a": 4, "b": 2}
    preempted = scheduler.num_preemptions
    many(scheduler, "c", 20)
    for _ in range(10):
        step(scheduler)

    assert running(scheduler) == {"a": 2, "b": 2, "c": 2}
    assert preempted == 2 and scheduler.num_preemptions == 4, "no more than needed, and none in turns"


def test_a_long_prompt_of_one_tenant_leaves_half_a_step_to_the_others() -> None:
    scheduler = make_scheduler(num_blocks=200, max_num_batched_tokens=16)
    long, longer = many(scheduler, "a", 2, prompt=200)
    step(scheduler)
    (short,) = many(scheduler, "b", 1, prompt=12)
    batches = [step(scheduler) for _ in range(2)]

    shares = [[run.num_tokens for run in batch.prefill] for batch in batches if batch]
    assert shares == [[8, 8], [12, 4]]
    assert short.num_output_tokens == 1 and not long.num_output_tokens and not longer.num_output_tokens


@pytest.mark.parametrize("scored_from", [None, 1], ids=["texts", "texts to be scored"])
@pytest.mark.parametrize("same", [True, False], ids=["the same", "different ones"])
def test_thousands_of_prompts_of_one_tenant_cost_another_no_step(scored_from: int | None, same: bool) -> None:
    """Counted in steps, of which each is bounded: as many as with the engine alone."""
    scheduler = make_scheduler(num_blocks=256, max_num_batched_tokens=64, max_num_seqs=16)
    for number in range(2000):
        ids = [0 if same else number, *range(7)]
        scheduler.add(make_sequence(ids, salt="a", scored_from=scored_from))
    step(scheduler)
    other = make_sequence(20, salt="b")
    scheduler.add(other)
    num_steps = 0
    while other.num_output_tokens < 3:
        batch = step(scheduler)
        assert batch is not None
        num_steps += 1
        for each in batch.runs:
            if each.sequence.salt == "a" and each.sequence.num_output_tokens:
                scheduler.finish(each.sequence)
    assert num_steps == 3
    assert len(scheduler.waiting) > 1900


def test_blocks_are_given_back_by_who_has_the_most_sequences_and_not_by_the_newcomer() -> None:
    scheduler = make_scheduler(num_blocks=12)
    many(scheduler, "a", 3, prompt=12)
    step(scheduler)
    (newcomer,) = many(scheduler, "b", 1, prompt=8)
    for _ in range(4):
        step(scheduler)

    assert newcomer.num_output_tokens >= 3
    assert {sequence.salt for sequence in scheduler.waiting} == {"a"}


def run(scheduler: Scheduler, sequence: Sequence, num_tokens: int) -> None:
    """Until the sequence has so many tokens more; then it is taken out."""
    wanted = sequence.num_output_tokens + num_tokens
    for _ in range(100):
        if sequence.num_output_tokens < wanted:
            step(scheduler)  # one of them may only fetch weights
    assert sequence.num_output_tokens == wanted
    scheduler.finish(sequence)


def test_sequences_of_batches_stand_still_while_a_live_one_is_answered_and_keep_what_they_have() -> None:
    scheduler = make_scheduler()
    slow = [make_sequence(priority=1) for _ in range(3)]
    for sequence in slow:
        scheduler.add(sequence)
    step(scheduler)
    before = [(sequence.num_computed_tokens, list(sequence.block_table)) for sequence in slow]
    live = make_sequence([1, 2, 3], salt="other")
    scheduler.add(live)

    run(scheduler, live, 5)

    assert [(sequence.num_computed_tokens, sequence.block_table) for sequence in slow] == before
    batch = step(scheduler)
    assert batch is not None and [each.sequence for each in batch.decode] == slow
    assert scheduler.num_preemptions == 0


def test_a_live_sequence_gets_the_place_the_blocks_or_the_slot_of_one_of_a_batch() -> None:
    places = make_scheduler(max_num_seqs=2)
    blocks = make_scheduler(num_blocks=8, block_size=4)
    slots = make_scheduler(max_adapters=1)
    cases = (
        (places, [make_sequence(priority=1), make_sequence(priority=1)], make_sequence([1, 2])),
        (blocks, [make_sequence(list(range(n, n + 15)), priority=1) for n in (0, 100)], make_sequence(10)),
        (slots, [make_sequence(priority=1, adapter="a") for _ in range(2)], make_sequence([1, 2], adapter="b")),
    )
    for scheduler, slow, live in cases:
        for sequence in slow:
            scheduler.add(sequence)
        for _ in range(3):
            step(scheduler)
        scheduler.add(live)
        step(scheduler)
        step(scheduler)
        assert live.num_output_tokens > 0
        run(scheduler, live, 1)
        for sequence in slow:
            run(scheduler, sequence, 2)
        assert scheduler.num_preemptions > 0


def test_batches_go_on_while_the_weights_of_a_live_sequence_are_on_their_way() -> None:
    scheduler = make_scheduler()
    slow, live = make_sequence(priority=1), make_sequence(adapter="a")
    scheduler.add(slow)
    scheduler.add(live)

    batch = scheduler.schedule()

    assert batch is not None and [each.sequence for each in batch.runs] == [slow]
    compute(scheduler, batch)
    assert scheduler.slots.take_loads() == ["a"]
    following = scheduler.schedule()
    assert following is not None and following.runs[0].sequence is slow
    compute(scheduler, following)
    scheduler.slots.mark_ready("a")
    last = scheduler.schedule()
    assert last is not None and [each.sequence for each in last.runs] == [live]


def test_fairness_between_tenants_holds_within_a_priority() -> None:
    scheduler = make_scheduler(max_num_seqs=4)
    for _ in range(6):
        scheduler.add(make_sequence([1, 2], salt="a", priority=1))
    step(scheduler)
    for _ in range(6):
        scheduler.add(make_sequence([1, 2], salt="b", priority=1))
    for _ in range(4):
        step(scheduler)
    assert Counter(each.salt for each in scheduler.running) == {"a": 2, "b": 2}
    for salt in "ab":
        for _ in range(4):
            scheduler.add(make_sequence([3, 4], salt=salt))
    for _ in range(6):
        step(scheduler)
    assert Counter((each.salt, each.priority) for each in scheduler.running) == {("a", 0): 2, ("b", 0): 2}


def busy_scheduler() -> Scheduler:
    """One sequence that answers, and one in the middle of its prompt."""
    scheduler = make_scheduler(max_num_batched_tokens=32, max_num_seqs=4)
    for prompt in (6, 30):
        scheduler.add(make_sequence(prompt, priority=1))
        step(scheduler)
    return scheduler


def shape(batch: Batch | None) -> list[tuple[list[int], int, int]]:
    return [(run.sequence.token_ids, run.start, run.num_tokens) for run in batch.runs] if batch else []


def test_a_step_that_was_given_up_is_scheduled_anew_as_if_it_had_not_been() -> None:
    alike = [busy_scheduler(), busy_scheduler()]
    for scheduler in alike:
        for _ in range(2):  # the second counts on blocks that the first one fills
            scheduler.add(make_sequence([*range(40, 60)], priority=1))
    for number in range(12):
        if number in (0, 3, 4):
            given_up = alike[0].schedule()
            assert given_up is not None and given_up.prefill and given_up.decode
            alike[0].undo(given_up)
            alike[0].check()
        batches = [scheduler.schedule() for scheduler in alike]
        assert shape(batches[0]) == shape(batches[1])
        for scheduler, batch in zip(alike, batches, strict=True):
            assert batch is not None
            compute(scheduler, batch)
    cached = [[sequence.num_cached_tokens for sequence in scheduler.running] for scheduler in alike]
    assert cached[0] == cached[1] and sum(cached[0]) > 0


def test_what_a_step_that_was_given_up_would_have_filled_is_not_found() -> None:
    scheduler = make_scheduler()
    for _ in range(2):
        scheduler.add(make_sequence(20, priority=1))
    batch = scheduler.schedule()
    assert batch is not None and [run.num_tokens for run in batch.prefill] == [16]
    scheduler.undo(batch)
    live = make_sequence(20)
    scheduler.add(live)
    step(scheduler)
    assert (live.num_cached_tokens, live.num_output_tokens) == (0, 1)


def test_steps_of_less_urgent_sequences_are_short() -> None:
    scheduler = make_scheduler(max_num_batched_tokens=64, max_num_seqs=8)
    scheduler.add(make_sequence(60, priority=1))
    first = step(scheduler)
    scheduler.add(make_sequence([*range(60)]))
    batches = [first, *(step(scheduler) for _ in range(2))]
    assert [batch.prefill[0].num_tokens for batch in batches if batch and batch.prefill] == [16, 60]
