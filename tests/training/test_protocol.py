import math
from pathlib import Path

import pytest

from tunery.models.adapter_config import LoraConfig
from tunery.texts import say
from tunery.training import protocol
from tunery.training.protocol import (
    ControlRequest,
    Failed,
    FailureCode,
    Message,
    Note,
    Sample,
    StepMetrics,
    TrainSpec,
    Workdir,
    decode,
    encode,
)

STEP = StepMetrics(
    step=3, total_steps=9, epoch=1, train_loss=0.5, train_mean_token_accuracy=0.25, lr=1e-3, grad_norm=2.0,
    tokens_per_s=10.0, eta_s=6.0, valid_loss=0.75, extras={"train_reward_accuracy": 1.0},
)  # fmt: skip
MESSAGES: list[Message] = [
    protocol.Started(num_examples=10, total_steps=9, trained_tokens=1000, device="cpu"),
    STEP,
    protocol.CheckpointSaved(9, 3, {"train_loss": 0.5}),
    protocol.StateSaved(9),
    Note.of(say("event.step_skipped", step=3), level="warn", data={"step": 3}),
    protocol.ParitySamples(4),
    protocol.Finished(9, trained_tokens=1000),
    Failed.of(FailureCode.OUT_OF_MEMORY, say("event.out_of_memory", tokens=64), "training_file"),
    protocol.Stopped(),
    protocol.RateFound(1e-3, [1e-3, 3e-3], [0.5, None]),
]


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_every_message_is_heard_as_it_was_said(message: Message) -> None:
    line = encode(message)
    assert line.endswith(b"\n") and line.count(b"\n") == 1
    heard = decode(line)
    assert heard == message
    if isinstance(heard, Note | Failed):
        assert heard.text is not None and heard.text["key"].startswith("event.")


def test_every_kind_of_message_is_tried_here() -> None:
    assert {type(message).__name__ for message in MESSAGES} == set(protocol._KINDS)


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_a_number_that_is_none_is_heard_as_missing(number: float) -> None:
    heard = decode(encode(StepMetrics(**{**vars(STEP), "train_loss": number, "extras": {"train_margin": number}})))
    assert isinstance(heard, StepMetrics)
    assert heard.train_loss is None
    assert heard.extras == {"train_margin": None}
    assert heard.measured == {"train_mean_token_accuracy": 0.25, "valid_loss": 0.75}


@pytest.mark.parametrize(
    "line",
    [b"Loading checkpoint shards: 100%\n", b"", b"[1]", b'"Started"', b"{}", b'{"type": "Started"}',
     b'{"type": "SomethingElse", "step": 1}', b'{"type": ["Started"]}',
     b'{"type": "Failed", "code": "x", "message": ""}', b"\xff\xfe"],
)  # fmt: skip
def test_what_a_library_prints_is_no_message(line: bytes) -> None:
    assert decode(line) is None


def test_a_message_of_another_version_is_understood_as_far_as_it_goes() -> None:
    assert decode(b'{"type": "StateSaved", "step": 7, "bytes": 12}') == protocol.StateSaved(7)


@pytest.mark.parametrize(
    "lora",
    [
        LoraConfig(),
        LoraConfig(target_modules=r".*_proj", rank_pattern={"q_proj": 2}),
        LoraConfig(layers_to_transform=(1,)),
    ],
)
def test_a_spec_comes_back_as_it_was_written(tmp_path: Path, lora: LoraConfig) -> None:
    files = {"train_file": tmp_path / "a.jsonl", "valid_file": tmp_path / "b.jsonl"}
    spec = TrainSpec("ftjob-1", tmp_path, n_epochs=3, batch_size=4, learning_rate=1e-3, beta=0.2, lora=lora, **files)
    spec.save(Workdir(tmp_path))
    assert TrainSpec.load(Workdir(tmp_path)) == spec


@pytest.mark.parametrize(("key", "value"), [("method", '"reinforcement"'), ("colour", '"red"')])
def test_a_spec_with_what_is_not_known_is_refused(tmp_path: Path, key: str, value: str) -> None:
    TrainSpec("ftjob-1", tmp_path, tmp_path, 3, 4, 1e-3).save(Workdir(tmp_path))
    text = Workdir(tmp_path).spec.read_text().replace('"method": "supervised"', f'"{key}": {value}')
    Workdir(tmp_path).spec.write_text(text)
    with pytest.raises(ValueError, match=value.strip('"') if key == "method" else key):
        TrainSpec.load(Workdir(tmp_path))


def test_a_request_lies_in_the_folder_until_it_is_taken_back(tmp_path: Path) -> None:
    workdir = Workdir(tmp_path)
    assert workdir.requested() is None
    workdir.request(ControlRequest.PAUSE)
    assert workdir.requested() is ControlRequest.PAUSE
    workdir.request(None)
    workdir.request(None)
    assert workdir.requested() is None
    workdir.control.write_text("dance")
    assert workdir.requested() is None


def test_samples_come_back_as_they_were_measured(tmp_path: Path) -> None:
    samples = [Sample([1, 2, 3], 1, [-0.5, -0.25])]
    protocol.write_samples(tmp_path / "samples", samples)
    assert protocol.read_samples(tmp_path / "samples") == samples
