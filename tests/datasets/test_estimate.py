"""Estimates: arithmetic that a finished job must confirm, and a speed that past jobs teach."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from threadpoolctl import threadpool_info

import tunery.datasets.speed as speed_module
from tests.datasets.conftest import chat_row, pair_row
from tunery.chat.render import Renderer
from tunery.datasets.estimate import Estimate, estimate, read_estimate
from tunery.datasets.pool import num_cores
from tunery.datasets.speed import FILE, KEPT, PastJob, Speed, guessed, matrix_flop_per_s, record, speed_of
from tunery.datasets.validate import validate_file
from tunery.domain.errors import InvalidRequest
from tunery.domain.hyperparameters import Hyperparameters, resolve
from tunery.domain.jobs import Method
from tunery.models.config import Sizes, read_sizes
from tunery.training.examples import read

Write = Callable[..., Path]
FLAT = Speed(slowest=1e11, fastest=1e12, least_overhead_s=5, most_overhead_s=20, num_jobs=0)


@pytest.fixture
def sizes(base_model_dir: Path) -> Sizes:
    return read_sizes(base_model_dir)


def estimated(
    path: Path,
    renderer: Renderer,
    sizes: Sizes,
    *,
    chosen: Hyperparameters | None = None,
    speed: Speed = FLAT,
    method: Method = "supervised",
) -> Estimate:
    report = validate_file(path, renderer=renderer, max_example_tokens=8192, method=method)
    numbers = resolve(chosen or Hyperparameters(), num_examples=report.num_examples)
    return estimate(
        report, numbers, method=method, sizes=sizes, speed=speed, lora_rank=16, training_price=3_000_000, currency="usd"
    )


def test_every_token_of_every_epoch_is_billed(write_rows: Write, renderer: Renderer, sizes: Sizes) -> None:
    path = write_rows([chat_row(f"{n}?") for n in range(10)])
    found = estimated(path, renderer, sizes, chosen=Hyperparameters(n_epochs=4, batch_size=3))
    tokens = sum(
        len(renderer.prompt_ids(chat_row(f"{n}?")["messages"], add_generation_prompt=False)) for n in range(10)
    )
    assert found.trained_tokens == 4 * tokens
    assert found.cost == pytest.approx(4 * tokens * 3.0 / 1e6)
    assert found.num_steps == 4 * 4


def test_more_work_takes_longer(write_rows: Write, renderer: Renderer, sizes: Sizes) -> None:
    path = write_rows([chat_row(f"{n}?") for n in range(10)])
    once, twice = (estimated(path, renderer, sizes, chosen=Hyperparameters(n_epochs=n)) for n in (1, 2))
    assert twice.min_s - 5 == pytest.approx(2 * (once.min_s - 5))
    assert once.min_s < once.max_s


def test_a_shared_beginning_is_computed_once_a_step(write_rows: Write, renderer: Renderer, sizes: Sizes) -> None:
    long = {"role": "system", "content": "Be brief. " * 300}
    rows = [{"messages": [long, *chat_row(f"{n}?")["messages"][1:]]} for n in range(20)]
    alone, shared = (
        estimated(write_rows(rows), renderer, sizes, chosen=Hyperparameters(n_epochs=1, batch_size=size))
        for size in (1, 20)
    )
    assert shared.trained_tokens == alone.trained_tokens
    assert (shared.max_s - 20) * 10 < alone.max_s - 20


def test_the_sizes_count_the_parameters_there_are(base_model_dir: Path, sizes: Sizes) -> None:
    from safetensors import safe_open

    with safe_open(base_model_dir / "model.safetensors", "np") as file:
        total = sum(_size(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118
    assert sizes.num_parameters == pytest.approx(total, rel=0.01)  # norms are left out


def _size(sizes: list[int]) -> int:
    size = 1
    for width in sizes:
        size *= width
    return size


def test_a_file_without_examples_has_no_estimate(write_rows: Write, renderer: Renderer, sizes: Sizes) -> None:
    with pytest.raises(InvalidRequest, match="no example"):
        estimated(write_rows(["{}"]), renderer, sizes)


def test_past_jobs_narrow_the_range(tmp_path: Path) -> None:
    for seconds in (90, 100, 110):
        record(tmp_path, "base", "supervised", PastJob(flop=1e13, training_s=seconds, overhead_s=10))
    speed = speed_of(tmp_path, "base", "supervised")
    low, high = speed.seconds(1e13)
    assert speed.num_jobs == 3
    assert low < 100 < high < 5 * low
    assert speed_of(tmp_path, "base", "dpo").num_jobs == 0
    assert speed_of(tmp_path, "other", "supervised").num_jobs == 0


def test_the_first_jobs_compilation_is_not_expected_of_the_next(tmp_path: Path) -> None:
    record(tmp_path, "base", "supervised", PastJob(flop=1e9, training_s=0.1, overhead_s=16))
    assert speed_of(tmp_path, "base", "supervised").seconds(1e9)[0] < 3
    record(tmp_path, "base", "supervised", PastJob(flop=1e9, training_s=0.1, overhead_s=12))
    assert speed_of(tmp_path, "base", "supervised").seconds(1e9)[0] > 5


def test_only_the_latest_jobs_count(tmp_path: Path) -> None:
    for seconds in range(1, KEPT + 4):
        record(tmp_path, "base", "supervised", PastJob(1e12, seconds, 1))
    assert speed_of(tmp_path, "base", "supervised").num_jobs == KEPT


@pytest.mark.parametrize("content", ["", "{", "[]", '{"a|b": [{"x": 1}]}', '{"a|b": 3}', "null"])
def test_a_damaged_memory_is_as_good_as_none(content: str, tmp_path: Path) -> None:
    (tmp_path / FILE).write_text(content)
    assert speed_of(tmp_path, "a", "b").num_jobs == 0
    record(tmp_path, "a", "b", PastJob(1e12, 10, 1))
    assert json.loads((tmp_path / FILE).read_text())["a|b"][0]["training_s"] == 10


def test_a_guess_is_within_what_processors_can_do() -> None:
    speed = guessed()
    assert 1e9 < speed.slowest < speed.fastest < 1e16


@pytest.mark.parametrize("measured", [1e-12, 1e-5, 60.0])
def test_no_measurement_leads_beyond_what_a_core_can_do(measured: float, monkeypatch: pytest.MonkeyPatch) -> None:
    threads: list[int] = []

    def clock(_: np.ndarray) -> float:
        threads.extend(pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas")
        return measured

    monkeypatch.setattr(speed_module, "_seconds", clock)
    matrix_flop_per_s.cache_clear()
    found = matrix_flop_per_s()
    matrix_flop_per_s.cache_clear()
    assert 1e9 <= found / num_cores() <= 5e11
    assert set(threads) == {1}  # threads that wait for each other are what a busy machine makes slow


def test_a_machine_is_measured_once(monkeypatch: pytest.MonkeyPatch) -> None:
    matrix_flop_per_s.cache_clear()
    first = matrix_flop_per_s()
    monkeypatch.setattr(speed_module, "_seconds", lambda _: 60.0)
    assert matrix_flop_per_s() == first


def test_a_time_that_rests_on_no_job_is_called_a_rough_guess(
    write_rows: Write, renderer: Renderer, sizes: Sizes
) -> None:
    guess = estimated(write_rows([chat_row(f"{n}?") for n in range(10)]), renderer, sizes)
    measured = replace(guess, num_measured_jobs=2)
    assert (guess.to_dict()["is_rough_guess"], measured.to_dict()["is_rough_guess"]) == (True, False)
    assert read_estimate(json.loads(json.dumps(guess.to_dict()))).is_rough_guess


@pytest.mark.parametrize(
    ("method", "rows"),
    [
        ("supervised", [chat_row(f"{n}?", "word " * (9 * n + 1)) for n in range(12)]),
        ("supervised", [{"prompt": f"{n} plus 1 is", "completion": f" {n + 1}." * (n + 1)} for n in range(12)]),
        ("dpo", [pair_row(f"Say {n}.", "better " * (7 * n + 1), "worse " * 3) for n in range(12)]),
    ],
)
def test_the_trainer_counts_what_the_report_counts(
    method: Method, rows: list[Any], write_rows: Write, renderer: Renderer
) -> None:
    path = write_rows(rows)
    for limit in (60, 8192):
        report = validate_file(path, method=method, renderer=renderer, max_example_tokens=limit)
        trained = read(path, method, renderer, limit, param="training_file")
        assert report.tokens is not None and len(trained) == report.num_examples
        assert report.tokens.tokens.total == sum(example.num_tokens for example in trained)
