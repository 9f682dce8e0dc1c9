"""Weights from a hub: resumed, checked, and refused in words that say what to do. The hub is one on this machine."""

import json
import shutil
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants

from tests.models.hub import COMMIT, Hub, Repository, serve_hub
from tunery.models.catalog import Artifact
from tunery.models.sources.base import SourceError, download_folder
from tunery.models.sources.cache import cached, ensure, facts_of, settle

NAME = "acme/tiny"
SOURCE = f"hf:{NAME}@{COMMIT}"
CARD = {"license": "apache-2.0", "language": ["en", "ja"]}


@pytest.fixture(scope="module")
def serving() -> Iterator[Hub]:
    with serve_hub() as hub:
        yield hub


@pytest.fixture
def hub(serving: Hub, tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    """With the tiny model in it; the library asks it, and pieces are small, so that there is something to cut off."""
    monkeypatch.setattr(constants, "ENDPOINT", serving.url)
    template = f"{serving.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub-cache"))
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 4096)
    folder = tmp_path / "repository"
    shutil.copytree(tiny_model_dir, folder, ignore=shutil.ignore_patterns("tunery.json"))
    serving.repositories = {NAME: Repository(folder, dict(CARD))}
    serving.asked.clear()
    serving.cut_after.clear()
    return serving


def test_a_branch_is_settled_and_what_the_hub_says_is_kept(hub: Hub, tmp_path: Path) -> None:
    assert settle(f"hf:{NAME}") == SOURCE
    seen: list[tuple[int, int | None]] = []
    folder = ensure(SOURCE, tmp_path / "cache", lambda _, done, total: seen.append((done, total)))

    facts = facts_of(folder)
    assert (facts.licence, facts.languages) == ("apache-2.0", ("en", "ja"))
    original = hub.repositories[NAME].folder / "model.safetensors"
    assert (folder / "model.safetensors").read_bytes() == original.read_bytes()
    assert seen[-1][0] == seen[-1][1] == sum(size for size in [seen[-1][1] or 0])
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert cached(SOURCE, tmp_path / "cache") == folder
    assert not download_folder(SOURCE, tmp_path / "cache").exists()


class Interrupted(Exception):
    pass


def test_a_download_goes_on_where_it_ended(hub: Hub, tmp_path: Path) -> None:
    """After a process that ended in the midst, and after a connection that did."""
    total = (hub.repositories[NAME].folder / "model.safetensors").stat().st_size

    def stop(_: str, done: int, __: int | None) -> None:
        if done > total // 2:
            raise Interrupted

    with pytest.raises(Interrupted):
        ensure(SOURCE, tmp_path / "cache", stop)
    assert cached(SOURCE, tmp_path / "cache") is None
    hub.asked.clear()
    hub.cut_after["model.safetensors"] = 8192

    folder = ensure(SOURCE, tmp_path / "cache")
    ranges = [wanted for name, wanted in hub.asked if name == "model.safetensors"]
    assert [name for name, _ in hub.asked] == ["model.safetensors"] * 2  # the small files were there
    starts = [int(wanted.removeprefix("bytes=").rstrip("-")) for wanted in ranges]
    assert total // 4 < starts[0] < starts[1] <= starts[0] + 8192
    assert (folder / "model.safetensors").stat().st_size == total


def test_a_file_that_is_not_what_the_hub_names_is_thrown_away(hub: Hub, tmp_path: Path) -> None:
    hub.repositories[NAME].wrong_hashes = {"model.safetensors"}
    with pytest.raises(SourceError, match=r"model\.safetensors of acme/tiny came damaged"):
        ensure(SOURCE, tmp_path / "cache")
    left = [path.name for path in download_folder(SOURCE, tmp_path / "cache").iterdir()]
    assert "config.json" in left and not any(name.startswith("model") for name in left)


def test_a_file_that_is_not_what_the_catalog_names_is_refused(hub: Hub, tmp_path: Path) -> None:
    expected = Artifact(SOURCE, files={"model.safetensors": "f" * 64})
    with pytest.raises(SourceError, match="is not the file that the catalog names"):
        ensure(SOURCE, tmp_path / "cache", artifact=expected)
    assert cached(SOURCE, tmp_path / "cache") is None


def test_a_gated_repository_says_what_to_do(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.repositories[NAME].gated, hub.token = True, "hf_right"
    for token in (None, "hf_wrong"):  # 401, 403
        if token:
            monkeypatch.setenv("HF_TOKEN", token)
        with pytest.raises(SourceError, match="accept the model's terms on its page") as refused:
            settle(f"hf:{NAME}")
        assert refused.value.code == "model_gated"
    monkeypatch.setenv("HF_TOKEN", "hf_right")
    assert ensure(SOURCE, tmp_path / "cache")


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        ("hf:acme/nothing", "shows no repository acme/nothing"),
        (f"hf:{NAME}@old", "has no revision old"),
        (f"hf:{NAME}/model.gguf", r"has no file model\.gguf"),
        ("hf:not-a/valid/../name", "could not be had|has no file|shows no repository"),
    ],
)
def test_what_the_hub_lacks_is_named(hub: Hub, tmp_path: Path, source: str, sentence: str) -> None:
    with pytest.raises(SourceError, match=sentence):
        ensure(source, tmp_path / "cache")


def test_pickles_are_not_even_fetched(hub: Hub, tmp_path: Path) -> None:
    folder = hub.repositories[NAME].folder
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(SourceError, match="pickles only"):
        ensure(SOURCE, tmp_path / "cache")
    assert hub.asked == []


def test_a_hub_that_is_away_is_no_loss_for_what_is_here(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SourceError, match="does not answer"):
        monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
        ensure(SOURCE, tmp_path / "cache")
    snapshot = tmp_path / "hub-cache" / "models--acme--tiny" / "snapshots" / COMMIT
    shutil.copytree(hub.repositories[NAME].folder, snapshot)
    (snapshot / "README.md").write_text("---\nlicense: mit\n---\n")
    folder = ensure(SOURCE, tmp_path / "cache")
    assert (folder / "model.safetensors").resolve() == snapshot / "model.safetensors"
    assert facts_of(folder).licence == "mit"


@pytest.mark.parametrize(("part", "sentence"), [("missing", "is missing \\(1 of 2 parts\\)"), ("short", "not fetched")])
def test_half_of_the_weights_is_refused(tiny_model_dir: Path, tmp_path: Path, part: str, sentence: str) -> None:
    folder = tmp_path / "half"
    shutil.copytree(tiny_model_dir, folder)
    weights = folder / "model.safetensors"
    if part == "missing":
        index = {"weight_map": {"a": "model.safetensors", "b": "model-2.safetensors"}}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    else:
        weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(SourceError, match=sentence):
        ensure(f"path:{folder}", tmp_path / "cache")


GGUF_HEAD = b"GGUF\x03\0\0\0"
ENDLESS = struct.pack("<QQQ1sIIQ", 0, 1, 1, b"a", 9, 0, 1 << 62)  # one value: a list of more bytes than there are


@pytest.mark.parametrize(
    "content", [b"", b"GGUF", GGUF_HEAD + b"\xff" * 64, GGUF_HEAD + ENDLESS, b"\x80\x04not a model"]
)
def test_a_gguf_with_a_broken_head_is_refused(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "broken.gguf"
    file.write_bytes(content)
    with pytest.raises(SourceError, match="no GGUF file, or a damaged one"):
        ensure(f"gguf:{file}", tmp_path / "cache")
