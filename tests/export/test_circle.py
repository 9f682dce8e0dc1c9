"""Trained here, out in every form, loaded by the program each is for, and in again: the same answers all along."""

import json
import signal
from pathlib import Path

import httpx
import pytest
import torch
import xllamacpp
from transformers import AutoModelForCausalLM

from tests.export.conftest import Change
from tests.serving.conftest import make_settings
from tests.serving.peft_adapters import generate, model_with
from tests.serving.running import LocalEngine, generation, tokens
from tunery.chat.render import Renderer
from tunery.domain.transfers import FORMATS
from tunery.export import write
from tunery.export.incoming import take_in
from tunery.export.spec import ImportSpec
from tunery.models.adapter_config import LoraConfig
from tunery.training import job
from tunery.training.protocol import TrainSpec, Workdir

QUESTION = [{"role": "user", "content": "Say 3."}]
NUM_TOKENS = 12


@pytest.fixture(scope="module")
def trained_dir(tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("job")
    rows = [
        {"messages": [{"role": "user", "content": f"Say {n}."}, {"role": "assistant", "content": f"It is {n}."}]}
        for n in range(8)
    ]
    (folder / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    lora = LoraConfig(rank=4, alpha=8.0)
    spec = TrainSpec("ftjob-1", tiny_model_dir, folder / "train.jsonl", 6, 4, 0.02, lora=lora, threads=1)
    spec.save(Workdir(folder))
    before, threads = signal.getsignal(signal.SIGTERM), torch.get_num_threads()
    job.run(Workdir(folder), lambda _: None)
    signal.signal(signal.SIGTERM, before)
    torch.set_num_threads(threads)
    return Workdir(folder).checkpoint(12)


def served(engine: LocalEngine, name: str, ids: list[int]) -> tuple[list[int], list[float]]:
    """The greedy answer, and how likely each token of the prompt is."""
    asked = generation(ids, adapter=name, max_tokens=NUM_TOKENS, prompt_logprobs=0)
    outputs = engine.run(asked)[0]
    scores = outputs[-1].prompt_logprobs
    assert scores is not None
    return tokens(outputs), [each.logprob for each in scores[1:] if each]


def asked_of_llama_cpp(file: Path, ids: list[int]) -> list[int]:
    params = xllamacpp.CommonParams()
    params.model.path, params.n_ctx, params.verbosity, params.warmup = str(file), 512, -1, False
    server = xllamacpp.Server(params)
    request = {"prompt": ids, "n_predict": NUM_TOKENS, "temperature": 0, "return_tokens": True}
    answer = httpx.post(f"{server.listening_address}/completion", json=request, timeout=600)
    return answer.raise_for_status().json()["tokens"]


def test_what_is_trained_here_answers_alike_wherever_it_goes_and_when_it_comes_back(
    changed: Change, trained_dir: Path, tiny_model_dir: Path, tmp_path: Path
) -> None:
    for form in FORMATS:
        (tmp_path / form).mkdir()
        report = write.export(changed(format=form, adapter_dir=trained_dir), tmp_path / form, lambda *_: None)
        assert report["proof"]["agrees"], form
    (tmp_path / "again").mkdir()
    files = {path.name: path for path in (tmp_path / "adapter").iterdir()}
    sent = ImportSpec(files, f"path:{tiny_model_dir}", "tiny", tiny_model_dir, completes=False, template=None)
    assert take_in(sent, tmp_path / "again")["warnings"] == []

    renderer = Renderer.from_dir(tiny_model_dir)
    ids = renderer.prompt_ids(QUESTION)
    with LocalEngine(make_settings(tiny_model_dir)) as engine:
        for name, folder in (("tuned", trained_dir), ("again", tmp_path / "again")):
            engine.engine.load(name, folder).result(60)
        answer, scores = served(engine, "tuned", ids)
        assert served(engine, "again", ids) == (answer, scores)
        assert tokens(engine.run(generation(ids, max_tokens=NUM_TOKENS))[0]) != answer, "it learned nothing"
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype=torch.float32).eval()
    assert generate(merged, ids, NUM_TOKENS) == answer
    assert generate(model_with(tiny_model_dir, tmp_path / "adapter"), ids, NUM_TOKENS) == answer
    end = next((index for index, token in enumerate(answer) if token in renderer.eos_ids), NUM_TOKENS)
    assert end > 3
    for form in ("gguf", "ollama"):
        assert asked_of_llama_cpp(tmp_path / form / "model.gguf", ids)[:end] == answer[:end]
