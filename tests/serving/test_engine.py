"""The engine against transformers and PEFT, in fp32, where greedy answers must be the same token for token."""

import os
import random
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.serving.conftest import make_settings
from tests.serving.peft_adapters import generate, model_with, write_adapter
from tests.serving.running import LocalEngine, generation, tokens
from tunery.domain.errors import InvalidRequest, NotFound
from tunery.kernels import int8 as eight_bit
from tunery.serving.registry import KNOWN_FOR_EACH_SLOT
from tunery.serving.requests import Generation, Output
from tunery.serving.sequence import Batch

NUM_TOKENS = 24
ADAPTERS = [None, "full", "wide", "attention", "mlp"]


def prompt(number: int, length: int = 30) -> list[int]:
    generator = torch.Generator().manual_seed(number)
    return torch.randint(3, 259, (length,), generator=generator).tolist()


@pytest.fixture(scope="module")
def expected(tiny_model_dir: Path, adapters: dict[str, Path]) -> dict[tuple[str | None, int], list[int]]:
    """transformers' and PEFT's own answers, by adapter and prompt number."""
    answers = {}
    for name in ADAPTERS:
        model = model_with(tiny_model_dir, adapters[name] if name else None)
        for number in range(3):
            answers[name, number] = generate(model, prompt(number, 10 + 17 * number), NUM_TOKENS)
    assert len({tuple(answers[name, 0]) for name in ADAPTERS}) == len(ADAPTERS)  # the adapters matter
    return answers


def all_cases() -> list[tuple[str | None, int]]:
    return [(name, number) for number in range(3) for name in ADAPTERS]


def make(case: tuple[str | None, int]):
    name, number = case
    return generation(prompt(number, 10 + 17 * number), adapter=name, max_tokens=NUM_TOKENS)


def test_each_alone_equals_transformers_and_peft(engine: LocalEngine, expected: dict) -> None:
    for case in all_cases():
        assert tokens(engine.run(make(case))[0]) == expected[case], case


def test_a_mixed_batch_equals_each_alone(engine: LocalEngine, expected: dict) -> None:
    cases = all_cases()
    answers = engine.run(*map(make, cases))

    assert {case: tokens(answer) for case, answer in zip(cases, answers, strict=True)} == expected


def test_nothing_changes_under_preemption_chunks_and_abort(
    tiny_model_dir: Path, adapters: dict[str, Path], expected: dict
) -> None:
    settings = make_settings(tiny_model_dir, max_num_batched_tokens=20, max_num_seqs=16)
    with LocalEngine(settings, num_blocks=16) as local:
        for name, folder in adapters.items():
            local.engine.load(name, folder).result(30)
        cases = all_cases()
        generations = [make(case) for case in cases]
        doomed = [make(case) for case in cases[:5]]
        local.engine.submit([item for pair in zip(generations, doomed, strict=False) for item in pair])
        local.engine.submit(generations[5:])
        for _ in range(30):
            local.next_output()
        local.engine.abort([item.id for item in doomed])
        answers = local.finish(generations)

    assert {case: tokens(answer) for case, answer in zip(cases, answers, strict=True)} == expected
    assert local.scheduler.num_preemptions > 0


def test_nothing_changes_where_steps_are_given_up_between_their_layers(
    tiny_model_dir: Path, adapters: dict[str, Path], expected: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    chance, num_given_up = random.Random(7), 0
    with LocalEngine(make_settings(tiny_model_dir, max_num_batched_tokens=64, max_num_seqs=16)) as local:
        undo = local.scheduler.undo

        def counted(batch: Batch) -> None:
            nonlocal num_given_up
            num_given_up += 1
            undo(batch)

        monkeypatch.setattr(local.scheduler, "undo", counted)
        monkeypatch.setattr(local.engine, "_way_out", lambda _: lambda: chance.random() < 0.2)
        for name, folder in adapters.items():
            local.engine.load(name, folder).result(30)
        cases = all_cases() * 2  # each finds what its twin has filled
        answers = local.run(*(replace(make(case), priority=number % 2) for number, case in enumerate(cases)))

    assert [tokens(answer) for answer in answers] == [expected[case] for case in cases]
    assert num_given_up > 20


def test_a_step_of_a_batch_gives_way_at_once_but_not_twice_in_a_row(
    engine: LocalEngine, expected: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A live request arrives in each step of a batch's."""
    execute, live, gave_way = engine.engine._runner.execute, list[Generation](), list[bool]()

    def disturbed(batch: Batch, should_stop: Callable[[], bool]) -> dict:
        if batch.priority > 0:
            assert not should_stop()
            live.append(generation(prompt(100 + len(live)), max_tokens=1))
            engine.engine.submit([generation(prompt(0), max_tokens=1), live[-1]])
            gave_way.append(should_stop())
        return execute(batch, should_stop)

    monkeypatch.setattr(engine.engine._runner, "execute", disturbed)
    answer = engine.run(replace(make(("full", 0)), priority=1))[0]
    assert tokens(answer) == expected["full", 0]
    assert gave_way == [True, False] * NUM_TOKENS
    assert all(tokens(found) for found in engine.finish(live))


def test_work_that_is_not_urgent_waits_for_live_answers_but_not_for_those_of_batches(
    engine: LocalEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []
    for live in (True, False):
        asked = replace(generation(prompt(0), max_tokens=50), priority=0 if live else 1)

        def submit(asked: Generation = asked) -> None:  # in the engine's thread, so that it takes all of it at once
            engine.engine.submit([asked])
            engine.engine.compute(lambda: order.append("later"), 1)
            engine.engine.compute(lambda: order.append("now"))

        def heard(outputs: list[Output], receive: Callable[[list[Output]], None] = engine._receive) -> None:
            order.extend("end" for output in outputs if output.finish_reason)
            receive(outputs)

        monkeypatch.setattr(engine.engine, "_sink", heard)
        engine.engine.compute(submit).result(30)
        engine.finish([asked])
        engine.engine.compute(lambda: None, 1).result(30)
    assert order == ["now", "end", "later", "now", "later", "end"]


def test_a_cached_prefix_changes_nothing_but_the_work(engine: LocalEngine, expected: dict) -> None:
    case = ("full", 2)
    cold, warm = (engine.run(make(case))[0] for _ in range(2))

    assert tokens(cold) == tokens(warm) == expected[case]
    assert cold[-1].num_cached_tokens == 0
    assert warm[-1].num_cached_tokens == 32  # of 44: whole blocks of 16


def test_projects_do_not_share_prefixes(engine: LocalEngine) -> None:
    ids = prompt(1, 40)
    first = engine.run(generation(ids, salt="one"))[0]
    other = engine.run(generation(ids, salt="two"))[0]
    again = engine.run(generation(ids, salt="two"))[0]

    assert [answer[-1].num_cached_tokens for answer in (first, other, again)] == [0, 0, 32]


@pytest.mark.skipif(not eight_bit.is_available(), reason="this processor does not multiply bytes")
def test_a_scored_prompt_and_its_neighbour_leave_each_other_alone(tiny_model_dir: Path) -> None:
    """One is computed with the weights as they were given, the other on bytes."""
    with LocalEngine(make_settings(tiny_model_dir, dtype="bfloat16", weights="8bit")) as local:

        def scored():
            return generation(prompt(4, 50), max_tokens=0, prompt_logprobs=0)

        def drawn(salt: str):
            return generation(prompt(5, 40), max_tokens=3, salt=salt)

        alone = [local.run(scored())[0], local.run(drawn("one"))[0]]
        together = local.run(scored(), drawn("two"))
        unscored = local.run(generation(prompt(4, 50), max_tokens=1))[0]
    for one, other in zip(alone, together, strict=True):
        assert [output.logprobs for output in one] == [output.logprobs for output in other]
        assert one[-1].prompt_logprobs == other[-1].prompt_logprobs
    assert unscored[-1].prompt_logprobs is None


def test_prompt_logprobs_equal_the_models_own(engine: LocalEngine, tiny_model_dir: Path, adapters: dict) -> None:
    ids = prompt(4, 50)
    engine.run(generation(ids, adapter="wide"))  # so that a cache hit is there to be ignored
    answer = engine.run(generation(ids, adapter="wide", max_tokens=0, prompt_logprobs=2))[0]

    with torch.inference_mode():
        logits = model_with(tiny_model_dir, adapters["wide"])(torch.tensor([ids])).logits[0]
    own = torch.log_softmax(logits, -1)[:-1].gather(1, torch.tensor(ids[1:]).unsqueeze(1)).squeeze(1)
    scores = answer[-1].prompt_logprobs
    assert scores is not None and scores[0] is None
    assert torch.allclose(
        torch.tensor([s.logprob for s in scores[1:] if s]), own, atol=1e-4
    )  # fp32 sums in other order
    assert len(scores) == len(ids)
    assert answer[-1].num_output_tokens == 0


def test_a_prompt_that_is_scored_from_a_token_on_takes_what_is_before_from_the_cache_of_scored_ones(
    engine: LocalEngine,
) -> None:
    ids = prompt(6, 50)
    engine.run(generation(ids, adapter="wide"))  # other blocks than those that a scored prompt may take

    def scored(start: int) -> Output:
        asked = generation(ids, adapter="wide", max_tokens=0, prompt_logprobs=0, logprob_start_len=start)
        return engine.run(asked)[0][-1]

    first, whole, *parts = scored(33), scored(0), scored(33), scored(32), scored(49), scored(1000)
    assert first.num_cached_tokens == whole.num_cached_tokens == 0
    assert [part.num_cached_tokens for part in parts] == [32, 16, 48, 48]
    for part, start in zip(parts, (33, 32, 49, 50), strict=True):
        assert whole.prompt_logprobs is not None and part.prompt_logprobs is not None
        assert part.prompt_logprobs[:start] == (None,) * start and len(part.prompt_logprobs) == len(ids)
        for one, other in zip(part.prompt_logprobs[start:], whole.prompt_logprobs[start:], strict=True):
            assert one is not None and other is not None
            assert one.logprob == pytest.approx(other.logprob, abs=1e-5)  # fp32 sums in other order


def test_equal_seeds_draw_equal_tokens_in_any_company(engine: LocalEngine) -> None:
    def seeded():
        return generation(prompt(0), temperature=1.0, top_p=0.9, seed="7:0", max_tokens=20)

    alone = tokens(engine.run(seeded())[0])
    company = engine.run(seeded(), *(generation(prompt(n), adapter="mlp", temperature=1.0) for n in range(4)), seeded())

    assert tokens(company[0]) == tokens(company[-1]) == alone


def test_more_adapters_than_slots_take_turns(tiny_model_dir: Path, adapters: dict[str, Path], expected: dict) -> None:
    with LocalEngine(make_settings(tiny_model_dir, max_adapters=2)) as local:
        for name, folder in adapters.items():
            local.engine.load(name, folder).result(30)
        cases = [case for case in all_cases() if case[0]]
        answers = local.run(*map(make, cases))
        assert len(local.scheduler.slots.resident) == 2

    assert {case: tokens(answer) for case, answer in zip(cases, answers, strict=True)} == {
        case: expected[case] for case in cases
    }


def test_a_thousand_registered_adapters_share_the_slots(tiny_model_dir: Path, adapters: dict[str, Path]) -> None:
    with LocalEngine(make_settings(tiny_model_dir, max_adapters=64)) as local:
        names = [f"m{number}" for number in range(1000)]
        for future in [local.engine.load(name, adapters["attention"]) for name in names]:
            future.result(60)
        assert len(local.engine.adapters) == 1000
        assert len(local.scheduler.slots.resident) == 64

        wanted = [generation([5, 6, 7], adapter=name, max_tokens=2) for name in names[::50]]
        answers = local.run(*wanted)

    assert len({tuple(tokens(answer)) for answer in answers}) == 1
    assert len(local.engine._runner._adapters) == 64


def test_of_very_many_adapters_those_that_nobody_asks_for_are_forgotten(
    tiny_model_dir: Path, adapters: dict[str, Path]
) -> None:
    most = 2 * KNOWN_FOR_EACH_SLOT
    with LocalEngine(make_settings(tiny_model_dir, max_adapters=2)) as local:

        def register(*names: str) -> None:
            for future in [local.engine.load(name, adapters["attention"]) for name in names]:
                future.result(60)

        def ask(name: str) -> list[Output]:
            return local.run(generation([5, 6, 7], adapter=name, max_tokens=2))[0]

        register(*(f"m{number}" for number in range(most)))
        answer = ask("m0")
        register("one more", "and another")
        assert local.engine.adapters == {"m0", "one more", "and another", *(f"m{number}" for number in range(3, most))}
        assert ask("m1")[-1].finish_reason == "error"
        register("m1")
        assert tokens(ask("m1")) == tokens(answer)
        assert len(local.engine.adapters) == most


@pytest.mark.skipif(sys.platform != "linux", reason="counts threads in /proc")
def test_reading_a_large_adapter_leaves_no_threads_behind(tiny_model_dir: Path, adapters: dict, tmp_path: Path) -> None:
    """More of OpenMP's threads than cores slow every step down, and stay."""
    large = write_adapter(tiny_model_dir, tmp_path / "large", rank=600, modules=["gate_proj", "down_proj"], seed=1)
    with LocalEngine(make_settings(tiny_model_dir)) as local:
        local.engine.load("small", adapters["attention"]).result(30)
        local.run(generation([5, 6, 7], adapter="small"))
        before = len(os.listdir("/proc/self/task"))
        local.engine.load("large", large).result(30)
        assert len(os.listdir("/proc/self/task")) <= before  # an earlier test's may end meanwhile


def test_a_replaced_adapter_answers_with_its_new_weights(engine: LocalEngine, adapters: dict, expected: dict) -> None:
    engine.run(make(("full", 2)))
    engine.engine.unload("full").result(10)
    engine.engine.load("full", adapters["wide"]).result(10)

    answer = engine.run(make(("full", 2)))[0]

    assert tokens(answer) == expected["wide", 2]
    assert answer[-1].num_cached_tokens == 0


def test_unloading_lets_running_answers_finish(engine: LocalEngine, expected: dict) -> None:
    running = make(("wide", 0))
    engine.engine.submit([running])
    engine.next_output()
    engine.engine.unload("wide").result(10)

    assert "wide" not in engine.engine.adapters
    assert tokens(engine.finish([running])[0]) == expected["wide", 0]
    late = engine.run(make(("wide", 0)))[0]
    assert late[-1].error is not None
    with pytest.raises(NotFound):
        engine.engine.unload("wide").result(10)


def test_files_that_are_no_adapter_are_refused_and_leave_no_name(engine: LocalEngine, tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="No adapter can be read"):
        engine.engine.load("broken", tmp_path).result(10)

    assert "broken" not in engine.engine.adapters


def test_an_adapter_that_breaks_the_arithmetic_hurts_only_its_own_requests(
    engine: LocalEngine, adapters: dict[str, Path], tmp_path: Path, expected: dict
) -> None:
    from safetensors.torch import load_file, save_file

    folder = tmp_path / "huge"
    folder.mkdir()
    (folder / "adapter_config.json").write_text((adapters["full"] / "adapter_config.json").read_text())
    weights = load_file(adapters["full"] / "adapter_model.safetensors")
    save_file({name: tensor * 1e30 for name, tensor in weights.items()}, folder / "adapter_model.safetensors")
    engine.engine.load("huge", folder).result(10)

    answers = engine.run(make(("full", 2)), generation(prompt(2, 44), adapter="huge"), make((None, 2)))
    after = engine.run(*(make(case) for case in all_cases()))

    assert answers[1][-1].error is not None
    assert tokens(answers[0]) == expected["full", 2]
    assert tokens(answers[2]) == expected[None, 2]
    assert [tokens(answer) for answer in after] == [expected[case] for case in all_cases()]
