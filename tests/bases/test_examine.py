"""What cannot be a base is refused by its small files, each with its own sentence."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.tiny_model import CHATML
from tunery.bases import examine as module
from tunery.bases.examine import Unusable, examine
from tunery.models.sources.base import Facts

FREE = Facts("apache-2.0", ("en",))


@pytest.fixture
def folder(tiny_model_dir: Path, tmp_path: Path) -> Path:
    copied = tmp_path / "model"
    shutil.copytree(tiny_model_dir, copied)
    return copied


def change(folder: Path, name: str, **values: Any) -> None:
    path = folder / name
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def test_a_usable_model_is_described(folder: Path) -> None:
    found = examine(folder, FREE)
    assert (found.context_length, found.stop_tokens, found.licence) == (2048, ("<|im_end|>",), "apache-2.0")
    assert found.training_bytes > 700e6 and found.serving_bytes > 1.7e9


def test_the_owner_names_the_licence_where_the_model_does_not(folder: Path) -> None:
    with pytest.raises(Unusable, match="names no licence") as refused:
        examine(folder, Facts())
    assert refused.value.code == "no_licence"
    assert examine(folder, Facts(), licence="mit").licence == "mit"


def shorten(folder: Path) -> None:
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    vocabulary = tokenizer["model"]["vocab"]
    last = max(vocabulary, key=vocabulary.get)
    del vocabulary[last]
    vocabulary["another"] = 5_000
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))


BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "no tokenizer": (lambda folder: (folder / "tokenizer.json").unlink(), r"has no tokenizer\.json"),
    "a broken tokenizer": (lambda folder: (folder / "tokenizer.json").write_text("{}"), "cannot be read"),
    "another model's tokenizer": (shorten, "belongs to another model"),
    "another model's weights": (lambda folder: change(folder, "config.json", vocab_size=300), "rows for 259 tokens"),
    "far more rows than tokens": (lambda folder: change(folder, "config.json", vocab_size=9_999), "another model"),
    "no template": (lambda folder: (folder / "chat_template.jinja").unlink(), "no chat template"),
    "a template that is no Jinja": (
        lambda folder: (folder / "chat_template.jinja").write_text("{% for %}"),
        "cannot be read",
    ),
    "a template that breaks out": (
        lambda folder: (folder / "chat_template.jinja").write_text("{{ ''.__class__.__mro__[1].__subclasses__() }}"),
        "does not write an ordinary conversation",
    ),
    "a template that refuses": (
        lambda folder: (folder / "chat_template.jinja").write_text("{{ raise_exception('never') }}"),
        "never",
    ),
    "answers without an end": (
        lambda folder: (folder / "chat_template.jinja").write_text(CHATML.replace("<|im_end|>", "")),
        "would never stop",
    ),
    "code of its own": (
        lambda folder: (folder / "config.json").write_text('{"model_type": "own", "auto_map": {"AutoModel": "m.M"}}'),
        "never run here",
    ),
    "a context that is no number": (
        lambda folder: change(folder, "config.json", max_position_embeddings="many"),
        "max_position_embeddings",
    ),
    "heads that are no number": (lambda folder: change(folder, "config.json", num_attention_heads=[4]), r"says \[4\]"),
    "no heads": (lambda folder: change(folder, "config.json", num_attention_heads=0, head_dim=0), "no numbers"),
    "layers that are no number": (
        lambda folder: change(folder, "config.json", num_hidden_layers="2"),
        "'2' for num_layers",
    ),
    "a list of settings": (lambda folder: (folder / "config.json").write_text("[]"), "cannot be read"),
    "an embedding model": (lambda folder: (folder / "modules.json").write_text("[]"), "gives embeddings"),
}


@pytest.mark.parametrize("problem", BROKEN)
def test_what_cannot_be_a_base_says_why(folder: Path, problem: str) -> None:
    break_it, sentence = BROKEN[problem]
    break_it(folder)
    with pytest.raises(Unusable, match=sentence):
        examine(folder, FREE)


def test_what_does_not_fit_is_refused_with_both_numbers(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "machine_bytes", lambda: 1_000_000_000)
    with pytest.raises(Unusable, match=r"takes about 1\.8 GB of memory; this machine has 1\.0 GB") as refused:
        examine(folder, FREE)
    assert refused.value.code == "base_too_large"
