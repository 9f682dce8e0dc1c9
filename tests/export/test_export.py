"""Exports load in transformers and PEFT and answer there as the engine does; what does not is not handed out."""

import errno
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from filelock import FileLock
from peft import LoraConfig as PeftConfig
from peft import get_peft_model
from safetensors import safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.export.conftest import ALL, Change
from tests.serving.conftest import make_settings
from tests.serving.peft_adapters import base_model, generate, model_with
from tests.serving.running import LocalEngine, generation, tokens
from tunery.domain.errors import InvalidRequest
from tunery.export import proof, tensors, write
from tunery.export.spec import FULL, ExportFailed, ExportSpec, explain, export_model
from tunery.models.config import read_config
from tunery.models.sources.cache import hashes_of

PROMPT = list(range(5, 45))


def quiet(what: str, done: int, total: int | None) -> None:
    pass


def answer(model: torch.nn.Module) -> list[int]:
    return generate(model, PROMPT, 16)


@pytest.fixture(scope="module")
def served(tiny_model_dir: Path, tuned_dir: Path) -> list[int]:
    with LocalEngine(make_settings(tiny_model_dir)) as local:
        local.engine.load("tuned", tuned_dir).result(30)
        return tokens(local.run(generation(PROMPT, adapter="tuned", max_tokens=16))[0])


def test_both_forms_load_elsewhere_with_the_same_greedy_answer(
    changed: Change, tiny_model_dir: Path, served: list[int], tmp_path: Path
) -> None:
    assert answer(base_model(tiny_model_dir)) != served, "the adapter does nothing: this would prove nothing"
    seen: list[str] = []
    (tmp_path / ".merged.part" / "left").mkdir(parents=True)  # by one that was killed
    for form in ("merged", "adapter"):
        report = export_model(changed(format=form), tmp_path / form, lambda what, *_: seen.append(what))
        assert report["proof"]["agrees"]
        assert report["proof"]["num_same_tokens"] == report["proof"]["num_tokens"] > 40
        assert report["proof"]["num_same_templates"] == report["proof"]["num_templates"] == 4
        assert json.loads((tmp_path / form / "export.json").read_text()) == report
        tokenizer = AutoTokenizer.from_pretrained(tmp_path / form)
        assert tokenizer.chat_template
    assert {"writing", "proving"} <= set(seen)
    assert answer(AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype=torch.float32).eval()) == served
    assert answer(model_with(tiny_model_dir, tmp_path / "adapter")) == served
    told = (tmp_path / "adapter" / "README.md").read_text()
    assert hashes_of(tiny_model_dir)["model.safetensors"] in told
    assert sorted(path.name for path in tmp_path.iterdir()) == ["adapter", "merged", "rows.jsonl"]


@pytest.mark.filterwarnings("ignore:The following rank_pattern keys:RuntimeWarning")
@pytest.mark.parametrize(
    "settings",
    [
        {"target_modules": ALL, "use_rslora": True},
        {"target_modules": ALL, "rank_pattern": {"q_proj": 2}, "alpha_pattern": {"down_proj": 40}},
        {"target_modules": ["q_proj", "k_proj", "v_proj", "o_proj"]},
        {"target_modules": ["up_proj"], "layers_to_transform": [1]},
    ],
    ids=["rank-stabilised", "patterns", "attention", "one layer"],
)
def test_whatever_an_adapter_is_made_of_is_merged(
    settings: dict[str, Any], spec: ExportSpec, tiny_model_dir: Path, tmp_path: Path
) -> None:
    torch.manual_seed(3)
    model = get_peft_model(base_model(tiny_model_dir), PeftConfig(r=4, lora_alpha=8, **settings))
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data = torch.randn(parameter.shape) * 0.2
    model.save_pretrained(tmp_path / "given")
    adapter = write.read_fitting(tmp_path / "given", read_config(tiny_model_dir))
    (tmp_path / "merged").mkdir()
    write.write_merged(tiny_model_dir, adapter, tmp_path / "merged", quiet, shard_bytes=50_000)
    shards = sorted((tmp_path / "merged").glob("*.safetensors"))
    assert len(shards) > 2
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype=torch.float32).eval()
    with torch.inference_mode():
        expected = model.eval()(input_ids=torch.tensor([PROMPT])).logits
        torch.testing.assert_close(merged(input_ids=torch.tensor([PROMPT])).logits, expected, rtol=1e-3, atol=1e-3)


def test_pieces_of_rows_make_the_whole(
    changed: Change, tuned_dir: Path, tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The faster reference is the sum at once."""
    adapter = write.read_fitting(tuned_dir, read_config(tiny_model_dir))
    name = "model.layers.1.mlp.up_proj.weight"
    stored = next(each for each in tensors.stored_tensors(tiny_model_dir) if each.name == name)
    whole = torch.cat(list(stored.rows(adapter)))
    monkeypatch.setattr(tensors, "CHUNK_NUMBERS", 64 * 5)
    pieces = list(stored.rows(adapter))
    assert [len(piece) for piece in pieces] == [5] * 25 + [3]
    matrices = adapter.modules[name.removesuffix(".weight")]
    with safe_open(stored.path, framework="pt") as file:
        expected = file.get_tensor(name) + adapter.config.scaling_of(name) * (matrices.b @ matrices.a)
    torch.testing.assert_close(torch.cat(pieces), whole)
    torch.testing.assert_close(whole, expected)


BROKEN = {
    "a wrong scale": lambda folder: _change(folder, "adapter_config.json", lora_alpha=80),
    "a template of another model": lambda folder: (folder / "chat_template.jinja").write_text(
        "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    ),
}


def _change(folder: Path, name: str, **values: Any) -> None:
    path = folder / name
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


@pytest.mark.parametrize("fault", BROKEN)
def test_an_export_that_disagrees_is_not_handed_out(
    fault: str, changed: Change, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def spoilt(spec: ExportSpec, target: Path) -> proof.Proof:
        BROKEN[fault](target)
        return proof.prove(spec, target)

    monkeypatch.setattr(write, "prove", spoilt)
    (tmp_path / "out").mkdir()
    with pytest.raises(ExportFailed, match="thrown away"):
        write.export(changed(format="adapter"), tmp_path / "out", quiet)


def test_without_rows_the_prompts_themselves_are_compared(changed: Change, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    report = write.export(changed(rows=None), tmp_path / "out", quiet)
    assert report["proof"]["num_prompts"] == 3
    assert report["proof"]["agrees"]


def test_a_folder_that_is_there_and_one_that_is_being_written_are_left_alone(spec: ExportSpec, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    with pytest.raises(InvalidRequest, match="is there already"):
        export_model(spec, tmp_path / "there", quiet)
    assert not (tmp_path / ".there.lock").exists()
    asked = threading.Event()

    def hold() -> None:
        with FileLock(tmp_path / ".out.lock"):
            asked.set()
            gone.wait(60)

    gone = threading.Event()
    other = threading.Thread(target=hold)
    other.start()
    asked.wait(60)
    with pytest.raises(InvalidRequest, match="Another export"):
        export_model(spec, tmp_path / "out", quiet)
    gone.set()
    other.join()
    assert not (tmp_path / "out").exists()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 160 kB, on which half of the tiny model has room."""
    disk = tmp_path / "disk"
    disk.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=160k", "tmpfs", disk], capture_output=True, text=True)
    if done.returncode != 0:
        pytest.skip(f"no disk can be mounted here: {done.stderr}")
    yield disk
    subprocess.run(["umount", disk], check=True)


def test_a_disk_that_is_full_in_the_middle_has_nothing_on_it_afterwards(spec: ExportSpec, small_disk: Path) -> None:
    with pytest.raises(ExportFailed, match="no room on the disk"):
        export_model(spec, small_disk / "out", quiet)
    assert list(small_disk.iterdir()) == []


@pytest.mark.parametrize(("form", "told"), [("merged", "File too large"), ("gguf", "no room on the disk")])
def test_a_full_disk_leaves_nothing_behind(
    form: str, told: str, changed: Change, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process really meets one: a file may not grow past the size that its limits set."""
    script = (
        "import resource, runpy, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000));"
        "runpy.run_module('tunery.export', run_name='__main__', alter_sys=True)"
    )
    monkeypatch.setattr("tunery.export.spec.exporter", lambda: [sys.executable, "-c", script])
    with pytest.raises(ExportFailed, match=told):
        export_model(changed(format=form), tmp_path / "out", quiet)
    assert [path.name for path in tmp_path.iterdir()] == ["rows.jsonl"]
    assert explain(OSError(errno.ENOSPC, "No space left on device")) == FULL


def test_a_process_that_dies_is_an_error_and_leaves_nothing(
    spec: ExportSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = "import os, sys; open(sys.argv[2] + '/half', 'w').write('x'); os.kill(os.getpid(), 9)"
    monkeypatch.setattr("tunery.export.spec.exporter", lambda: [sys.executable, "-c", script])
    with pytest.raises(ExportFailed, match="ended unexpectedly"):
        export_model(spec, tmp_path / "out", quiet)
    assert not (tmp_path / "out").exists()
