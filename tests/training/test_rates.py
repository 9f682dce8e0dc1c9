import json
from pathlib import Path

import pytest

from tests.training.process import start
from tunery.models.adapter_config import LoraConfig
from tunery.training.protocol import Message, RateFound, StepMetrics, TrainSpec, Workdir, decode
from tunery.training.rates import search

WORDS = ("lamp", "screw", "parcel", "invoice", "password", "switch", "cable", "shade")


def rows(beginning: int) -> str:
    asked = [(f"Where is the {word} number {beginning + at}?", word) for at, word in enumerate(WORDS * 4)]
    return "".join(
        json.dumps({"messages": [{"role": "user", "content": text}, {"role": "assistant", "content": f"The {word}."}]})
        + "\n"
        for text, word in asked
    )


def said(folder: Path, model_dir: Path, rate: float, *, seeks_rate: bool = False) -> list[Message]:
    folder.mkdir()
    workdir = Workdir(folder)
    workdir.train_file.write_text(rows(100))
    workdir.valid_file.write_text(rows(500))
    TrainSpec(
        job_id="job", model_dir=model_dir, train_file=workdir.train_file, valid_file=workdir.valid_file, n_epochs=1,
        batch_size=4, learning_rate=rate, lora=LoraConfig(rank=4, alpha=8.0), threads=1, seeks_rate=seeks_rate,
    ).save(workdir)  # fmt: skip
    start(workdir).join()
    lines = (folder / "said.jsonl").read_bytes().split(b"\n")
    return [message for line in lines if (message := decode(line)) is not None]


def loss_of_a_job(folder: Path, model_dir: Path, rate: float) -> float:
    steps = [message for message in said(folder, model_dir, rate) if isinstance(message, StepMetrics)]
    return steps[-1].full_valid_loss or float("inf")


def test_the_rate_that_is_found_trains_better_than_ten_times_more_or_less(tiny_model_dir: Path, tmp_path: Path) -> None:
    *before, found = said(tmp_path / "search", tiny_model_dir, 1e-3, seeks_rate=True)
    assert isinstance(found, RateFound) and found.learning_rate is not None
    losses = [float("inf") if loss is None else loss for loss in found.losses]
    tried = dict(zip(found.rates, losses, strict=True))
    assert sum(isinstance(message, StepMetrics) for message in before) == 8 * len(tried)
    best = found.learning_rate
    less, as_found, more = (
        loss_of_a_job(tmp_path / f"{factor}", tiny_model_dir, best * factor) for factor in (0.1, 1, 10)
    )
    assert as_found == pytest.approx(tried[best], abs=1e-6), "a job begins where each trial did"
    assert as_found < min(less, more)


@pytest.mark.parametrize("wanted", [3e-6, 1e-4, 2e-3, 1e-2])
def test_the_search_goes_to_where_the_loss_is_lowest(wanted: float) -> None:
    def loss_of(rate: float) -> float:
        return float("inf") if rate > 5 * wanted else max(rate / wanted, wanted / rate)

    tried = search(loss_of, 1e-4)
    assert len(tried) <= 7
    assert wanted / 3.2 < min(tried, key=lambda rate: tried[rate]) < wanted * 3.2
