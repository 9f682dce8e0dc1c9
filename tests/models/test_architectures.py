"""Each architecture that is described, as the engine and the trainer's own decoder compute it, and some that are not,
which both compute over transformers' modules: against transformers and PEFT in fp32."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from torch.nn import functional
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from tests.models.families import FAMILIES, UNDESCRIBED, UNKNOWN, Family
from tests.serving.conftest import make_settings
from tests.serving.peft_adapters import generate, model_with, write_adapter
from tests.serving.running import LocalEngine, generation, tokens
from tests.training.conftest import assert_grads_equal
from tunery.chat.examples import ChatExample
from tunery.chat.render import Renderer
from tunery.domain.errors import InvalidRequest
from tunery.models.adapter_config import LoraConfig
from tunery.models.adapter_files import AdapterFiles
from tunery.models.adapter_files import write_adapter as write_our_adapter
from tunery.models.config import UnsupportedModel, is_described, read_sizes
from tunery.serving.build import load_forward
from tunery.serving.forward.interface import Run
from tunery.training.examples import TrainExample
from tunery.training.forward.decoder import Decoder
from tunery.training.forward.inputs import pack
from tunery.training.forward.lora import matrices_of
from tunery.training.forward.model import TrainModel
from tunery.training.forward.packing import Row
from tunery.training.job import measure_samples
from tunery.training.losses import weighted_nll
from tunery.training.methods.sft import Supervised
from tunery.training.optimizer import AdamW
from tunery.training.step import MicroBatchLimit, Stepper


@dataclass(frozen=True)
class Base:
    family: Family
    folder: Path
    reference: PreTrainedModel
    lora: LoraConfig

    def trainable(self) -> TrainModel:
        """With an adapter on all linear layers that does something."""
        model = TrainModel.load(self.folder, self.lora, seed=1, device="cpu", dtype=torch.float32)
        assert isinstance(model.body, Decoder) == is_described(self.folder)
        generator = torch.Generator().manual_seed(2)
        for layer in model.layers.values():
            with torch.no_grad():
                layer.lora_B.normal_(std=0.05, generator=generator)
            layer.refresh()
        return model

    def save(self, model: TrainModel, folder: Path) -> Path:
        write_our_adapter(folder, AdapterFiles(model.body.lora, matrices_of(model.layers)), str(self.folder))
        return folder


@pytest.fixture(scope="module", params=[*FAMILIES, *UNDESCRIBED])
def base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Base]:
    family, folder = {**FAMILIES, **UNDESCRIBED}[request.param], tmp_path_factory.mktemp("base")
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # too small to share between threads
    reference = family.write(folder)
    assert is_described(folder) == (request.param in FAMILIES)
    yield Base(family, folder, reference, LoraConfig(4, 8.0, target_modules=read_sizes(folder).lora_targets))
    torch.set_num_threads(before)


def text(length: int, seed: int) -> list[int]:
    return torch.randint(8, 250, (length,), generator=torch.Generator().manual_seed(seed)).tolist()


def rows() -> list[Row]:
    """That share beginnings, on three levels, some longer than a window."""
    system, questions = text(30, 1), [text(20, 2), text(6, 3)]
    prompts = [system + questions[0], system + questions[0], system + questions[1], system, text(40, 4)]
    answers = [text(3 + 7 * number, 5 + number) for number in range(len(prompts))]
    return [
        Row(prompt + answer, [0.0] * len(prompt) + [1.0 + number / 2] * len(answer))
        for number, (prompt, answer) in enumerate(zip(prompts, answers, strict=True))
    ]


def test_prompts_in_pieces_and_cached_decoding_give_the_logits_of_the_whole(base: Base) -> None:
    model = load_forward(make_settings(base.folder))
    ids = text(70, 0)
    with torch.inference_mode():
        expected = base.reference(torch.tensor([ids])).logits[0]
    table = [3, 1, 0, 2, 4]
    first = model.prefill([Run(ids[:20], 0, table, None)])
    second = model.prefill([Run(ids[20:60], 20, table, None)])
    decoded = torch.cat([model.decode([Run([ids[i]], i, table, None)]) for i in range(60, 70)])
    logits = torch.cat((model.logits(torch.cat((first, second))), decoded))
    torch.testing.assert_close(logits, expected, atol=3e-4, rtol=1e-4)  # fp32 sums in another order


@pytest.mark.parametrize("recompute", [False, True])
def test_loss_and_gradients_are_those_of_autograd_over_transformers_and_peft(
    base: Base, recompute: bool, tmp_path: Path
) -> None:
    ours = base.trainable()
    ours.body.recompute(recompute)
    inputs = pack(rows(), ours.shape)
    loss = weighted_nll(ours.hidden(inputs), ours.head, inputs.labels, inputs.weights).nll_sum
    loss.backward()
    plain = AutoModelForCausalLM.from_pretrained(base.folder, dtype=torch.float32)
    theirs = PeftModel.from_pretrained(plain, str(base.save(ours, tmp_path)), is_trainable=True)
    expected = torch.zeros(())
    for row in rows():
        logits = theirs(input_ids=torch.tensor([row.token_ids])).logits[0, :-1]
        nll = functional.cross_entropy(logits, torch.tensor(row.token_ids[1:]), reduction="none")
        expected = expected + (nll * torch.tensor(row.loss_weights[1:])).sum()
    expected.backward()
    torch.testing.assert_close(loss, expected, rtol=2e-5, atol=0)
    modules = dict(theirs.base_model.model.named_modules())
    mine, wanted = list[Any](), list[Any]()
    for name, layer in ours.layers.items():
        for matrix, half in ((layer.lora_A, modules[name].lora_A), (layer.lora_B, modules[name].lora_B)):
            mine.append(matrix.grad)
            wanted.append(half["default"].weight.grad)
    assert_grads_equal(mine, wanted, 1e-4)


def test_adapters_are_served_together_from_a_shared_cache_as_trained_and_as_peft_answers(
    base: Base, tmp_path: Path
) -> None:
    trained, num_layers = base.trainable(), base.reference.config.num_hidden_layers
    (tmp_path / "ours").mkdir()
    folders: dict[str | None, Path | None] = {
        None: None,
        "ours": base.save(trained, tmp_path / "ours"),
        "theirs": write_adapter(base.folder, tmp_path / "theirs", rank=2, modules=[base.family.modules[0]], seed=3),
    }
    assert len(trained.layers) == num_layers * len(base.family.modules)
    prompts = [text(40, 7), text(40, 7) + text(5, 8)]
    expected = {
        (name, number): generate(model_with(base.folder, folder), prompt, 12)
        for name, folder in folders.items()
        for number, prompt in enumerate(prompts)
    }
    cases = list(expected)
    with LocalEngine(make_settings(base.folder, cache_bytes=4 * 1024**2)) as local:
        for name, folder in folders.items():
            if name is not None and folder is not None:
                local.engine.load(name, folder).result(30)
        for _ in range(2):  # the second time each finds what the first has kept
            asked = [generation(prompts[number], adapter=name, max_tokens=12) for name, number in cases]
            answers = local.run(*asked)
            assert {case: tokens(outputs) for case, outputs in zip(cases, answers, strict=True)} == expected
        assert all(outputs[0].num_cached_tokens >= 32 for outputs in answers)
        trained.train(False)
        examples = [TrainExample((row,), len(row.token_ids)) for row in rows()]
        for sample in measure_samples(trained, examples):
            asked = generation(sample.token_ids, adapter="ours", max_tokens=1, prompt_logprobs=0)
            told = local.run(asked)[0][-1].prompt_logprobs
            assert told is not None
            served = [each.logprob for each in told[sample.start :] if each is not None]
            assert served == pytest.approx(sample.logprobs, abs=2e-4)


SYSTEM, USER = {"role": "system", "content": "Be brief."}, {"role": "user", "content": "Who are you?"}
ANSWER = {"role": "assistant", "content": "A model."}


def test_a_chat_is_rendered_as_by_transformers_and_learnt_to_its_end(base: Base, tmp_path: Path) -> None:
    folder, adapter = tmp_path / "base", tmp_path / "adapter"
    folder.mkdir()
    adapter.mkdir()
    base.family.write(folder, initializer_range=0.4)  # tied to smaller embeddings no logit could be large enough
    renderer, tokenizer = Renderer.from_dir(folder), AutoTokenizer.from_pretrained(folder)
    end = tokenizer.convert_tokens_to_ids(base.family.turns.end)
    for messages in ([USER], [SYSTEM, USER], [USER, ANSWER, USER]):
        wanted = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
        assert renderer.prompt_ids(messages) == wanted
    row = renderer.render(ChatExample(1, [USER, {**ANSWER, "weight": 0}, USER, ANSWER]))
    trained = [token for token, weight in zip(row.token_ids, row.loss_weights, strict=True) if weight]
    assert trained[-1] == end and renderer.decode(trained).strip() == ANSWER["content"] and end in renderer.eos_ids

    model = TrainModel.load(folder, base.lora, seed=1, device="cpu", dtype=torch.float32)
    stepper = Stepper(model, Supervised(), AdamW(model.parameters()), MicroBatchLimit(1024))
    example = TrainExample((Row(row.token_ids, row.loss_weights),), len(row.token_ids))
    steps = (stepper.step([example], lr=0.02) for _ in range(200))
    assert any(step.accuracy == 1 and step.loss < 0.3 for step in steps)  # by heart
    with LocalEngine(make_settings(folder)) as local:
        local.engine.load("tuned", base.save(model, adapter)).result(30)
        prompt = renderer.prompt_ids([USER, ANSWER, USER])
        (outputs,) = local.run(generation(prompt, adapter="tuned", max_tokens=40, ignore_eos=False))
    assert "".join(output.text for output in outputs).strip() == ANSWER["content"]
    assert outputs[-1].finish_reason == "stop"


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("bamba, with states", "computes another thing than transformers"),
        ("gpt-oss, with sinks", "s_aux|computes another thing"),
        ("stablelm, whose attention is told nothing", "does not hand on|call the model with plan="),
        ("falcon, with an attention of its own", "does not compute it so"),
    ],
)
def test_what_is_not_computed_is_refused_by_engine_and_trainer(name: str, reason: str, tmp_path: Path) -> None:
    UNKNOWN[name].write(tmp_path)
    with pytest.raises(InvalidRequest, match=reason):
        load_forward(make_settings(tmp_path))
    lora = LoraConfig(4, 8.0, target_modules=read_sizes(tmp_path).lora_targets)
    with pytest.raises(UnsupportedModel, match=reason):
        TrainModel.load(tmp_path, lora, seed=1, device="cpu", dtype=torch.float32)
