"""Adapters that were trained elsewhere are taken in as they are, or refused with what is wrong."""

import gzip
import io
import json
import pickle
import shutil
import tarfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig as PeftConfig
from peft import get_peft_model
from safetensors.torch import load_file, save_file

from tests.export.conftest import ALL
from tests.export.folders import UNSLOTH_EXPRESSION, as_axolotl_writes, as_unsloth_writes
from tests.serving.conftest import make_settings
from tests.serving.peft_adapters import base_model, model_with
from tests.serving.running import LocalEngine, generation
from tests.tiny_model import CHATML
from tunery.domain.errors import InvalidRequest
from tunery.export import incoming
from tunery.export.incoming import take_in
from tunery.export.lora_gguf import read_lora, write_lora
from tunery.export.spec import ImportSpec
from tunery.export.write import read_fitting
from tunery.models.config import read_config

TEMPLATE = "chat_template.jinja"
WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"
PROMPT = list(range(5, 45))


def spec_of(files: dict[str, Path], model_dir: Path, **values: Any) -> ImportSpec:
    about: dict[str, Any] = {"source": f"path:{model_dir}", "base": "tiny", "completes": False, "template": "base"}
    return ImportSpec(files=files, model_dir=model_dir, **about | values)


Import = Callable[..., dict[str, Any]]


@pytest.fixture
def taken(tiny_model_dir: Path, tmp_path: Path) -> Import:
    """What is told of an import of these files, a folder or an archive; its adapter lies in `taken`."""

    def run(sent: Path, **values: Any) -> dict[str, Any]:
        files = {path.name: path for path in sent.iterdir() if path.is_file()} if sent.is_dir() else {sent.name: sent}
        shutil.rmtree(tmp_path / "taken", ignore_errors=True)
        (tmp_path / "taken").mkdir()
        return take_in(spec_of(files, tiny_model_dir, **values), tmp_path / "taken")

    return run


@pytest.fixture
def given(tuned_dir: Path, tmp_path: Path) -> Path:
    """A folder as a trainer leaves it, to be spoilt."""
    folder = tmp_path / "given"
    shutil.copytree(tuned_dir, folder)
    (folder / TEMPLATE).write_text(CHATML)
    return folder


def packed(folder: Path, to: Path, *extra: tuple[tarfile.TarInfo, bytes], mode: Any = "w") -> Path:
    with tarfile.open(to, mode) as archive:
        archive.add(folder, "mine")
        for info, content in extra:
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return to


def served_logprobs(engine: LocalEngine, adapter: str) -> list[float]:
    """Of the prompt's own tokens, as the engine tells them."""
    last = engine.run(generation(PROMPT, adapter=adapter, max_tokens=0, prompt_logprobs=0))[0][-1]
    return [each.logprob for each in last.prompt_logprobs[1:]]


def logprobs(model: torch.nn.Module) -> list[float]:
    with torch.inference_mode():
        logits = model(input_ids=torch.tensor([PROMPT])).logits[0, :-1]
    return logits.log_softmax(dim=1).gather(1, torch.tensor(PROMPT[1:]).unsqueeze(1)).squeeze(1).tolist()


@pytest.fixture(scope="module")
def engine(tiny_model_dir: Path) -> Any:
    with LocalEngine(make_settings(tiny_model_dir)) as local:
        yield local


@pytest.mark.filterwarnings("ignore:The following rank_pattern keys:RuntimeWarning")
@pytest.mark.parametrize(
    "settings",
    [
        {"target_modules": ALL},
        {"target_modules": "all-linear", "use_rslora": True},
        {"target_modules": ALL, "rank_pattern": {"q_proj": 2}, "alpha_pattern": {"down_proj": 40}},
        {"target_modules": ["q_proj", "k_proj", "v_proj", "o_proj"]},
        {"target_modules": r"(?:.*?(?:self_attn|mlp).*?(?:q_proj|up_proj).*?)|(?:\bmodel\.layers\.[\d]{1,}\.mlp\.g.*)"},
    ],
    ids=["plain", "rank-stabilised", "patterns", "attention", "unsloth's expression"],
)
def test_an_adapter_of_peft_answers_here_as_in_transformers(
    settings: dict[str, Any], taken: Import, engine: LocalEngine, tiny_model_dir: Path, tmp_path: Path
) -> None:
    """As it lies, and as the GGUF file of the same."""
    torch.manual_seed(3)
    model = get_peft_model(base_model(tiny_model_dir), PeftConfig(r=4, lora_alpha=8, **settings))
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data = torch.randn(parameter.shape) * 0.2
    model.save_pretrained(tmp_path / "given")
    expected = logprobs(model.eval())
    assert logprobs(base_model(tiny_model_dir)) != pytest.approx(expected, abs=0.1), "the adapter does nothing"
    config = read_config(tiny_model_dir)
    (tmp_path / "as_gguf").mkdir()
    write_lora(read_fitting(tmp_path / "given", config), config, tmp_path / "as_gguf" / "lora.gguf", "mine")
    for form in ("given", "as_gguf"):
        report = taken(tmp_path / form)
        assert report["warnings"] == []
        assert {path.name for path in (tmp_path / "taken").iterdir()} == {CONFIG, WEIGHTS}
        assert logprobs(model_with(tiny_model_dir, tmp_path / "taken")) == pytest.approx(expected, abs=1e-4)
        engine.engine.load("taken", tmp_path / "taken").result(30)
        assert served_logprobs(engine, "taken") == pytest.approx(expected, abs=1e-3)
        engine.engine.unload("taken").result(30)


def test_folders_of_other_trainers_are_taken_as_they_lie(given: Path, taken: Import, tmp_path: Path) -> None:
    """With pickles, checkpoints and optimizer states beside the adapter, packed or not."""
    (given / "training_args.bin").write_bytes(pickle.dumps({"a": 1}))
    (given / "trainer_state.json").write_text("{}")
    (given / "README.md").write_text("base_model: x")
    assert taken(given, template=None)["warnings"] == []
    for step in (5, 10):
        shutil.copytree(given, given / f"checkpoint-{step}", ignore=shutil.ignore_patterns("checkpoint-*"))
        (given / f"checkpoint-{step}" / "optimizer.pt").write_bytes(b"\x80")
    for name, mode in (("a.tar", "w"), ("a.tar.gz", "w:gz")):
        assert taken(packed(given, tmp_path / name, mode=mode), template=None)["rank"] == 4


ELSEWHERE = Path(__file__).with_name("elsewhere")


@pytest.mark.parametrize("trainer", sorted(path.name.partition(".")[0] for path in ELSEWHERE.glob("*.tar.gz")))
def test_what_another_trainer_really_left_answers_here_as_in_transformers(
    trainer: str, taken: Import, engine: LocalEngine, tiny_model_dir: Path, tmp_path: Path
) -> None:
    """Whole, with checkpoints, states and pickles, as an archive and as the folder's own files. `elsewhere/make_*` says
    how it was made."""
    sent = ELSEWHERE / f"{trainer}.tar.gz"
    with tarfile.open(sent) as archive:
        assert any(name.endswith("training_args.bin") for name in archive.getnames())
        archive.extraction_filter = getattr(tarfile, "data_filter", None)  # Python 3.11.2, Debian's, has none
        archive.extractall(tmp_path)
    folder = tmp_path / "outputs"
    expected = logprobs(model_with(tiny_model_dir, folder))
    assert logprobs(base_model(tiny_model_dir)) != pytest.approx(expected, abs=0.1), "the adapter does nothing"
    for each in (sent, folder):
        report = taken(each, template=None)
        assert not [told for told in report["warnings"] if "template" in told]
        assert logprobs(model_with(tiny_model_dir, tmp_path / "taken")) == pytest.approx(expected, abs=1e-5)
        engine.engine.load("theirs", tmp_path / "taken").result(30)
        assert served_logprobs(engine, "theirs") == pytest.approx(expected, abs=1e-3)
        engine.engine.unload("theirs").result(30)


@pytest.mark.parametrize(
    ("write", "base", "told"),
    [
        (as_unsloth_writes, "unsloth/Tiny-unsloth-bnb-4bit", False),
        (as_unsloth_writes, "unsloth/other-1b-instruct-bnb-4bit", True),
        (partial(as_unsloth_writes, target_modules=UNSLOTH_EXPRESSION), "unsloth/tiny", False),
        (as_axolotl_writes, "someone/Tiny", False),
        (as_axolotl_writes, "NousResearch/Llama-3.2-1B", True),
    ],
    ids=["unsloth", "unsloth, another base", "unsloth's expression", "axolotl", "axolotl, another base"],
)
def test_folders_of_unsloth_and_axolotl_are_taken_as_they_lie(
    write: Callable[..., Path],
    base: str,
    told: bool,
    taken: Import,
    tuned_dir: Path,
    tiny_model_dir: Path,
    tmp_path: Path,
) -> None:
    """File by file, and whole as an archive."""
    folder = write(tuned_dir, tiny_model_dir, tmp_path / "outputs", base)
    expected = logprobs(model_with(tiny_model_dir, tuned_dir))
    for sent in (folder, packed(folder, tmp_path / "outputs.tar.gz", mode="w:gz")):
        warnings = taken(sent, template=None)["warnings"]
        assert [base in each for each in warnings] == [True] * told
        assert logprobs(model_with(tiny_model_dir, tmp_path / "taken")) == pytest.approx(expected, abs=1e-5)


def _truncate(folder: Path) -> None:
    path = folder / WEIGHTS
    path.write_bytes(path.read_bytes()[:-100])


def _retype(folder: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    tensors = load_file(folder / WEIGHTS)
    save_file(change(tensors) or tensors, folder / WEIGHTS)


def _first(tensors: dict[str, torch.Tensor], end: str = "lora_A.weight") -> str:
    return next(name for name in sorted(tensors) if name.endswith(end))


def _with_nan(tensors: dict[str, torch.Tensor]) -> None:
    tensors[_first(tensors)][1, 2] = float("nan")


def _with_infinity(tensors: dict[str, torch.Tensor]) -> None:
    tensors[_first(tensors, "lora_B.weight")][0, 0] = float("-inf")


def _without_one(tensors: dict[str, torch.Tensor]) -> None:
    del tensors[_first(tensors)]


def _with_an_embedding(tensors: dict[str, torch.Tensor]) -> None:
    tensors["base_model.model.lm_head.weight"] = torch.ones(262, 64)


def _wider(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: torch.cat([each, each], 1) if "lora_A" in name else each for name, each in tensors.items()}


def _of_a_large_rank(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    rank = 513
    shape = {"A": lambda each: (rank, each.shape[1]), "B": lambda each: (each.shape[0], rank)}
    return {name: torch.zeros(shape[name.split("lora_")[1][0]](each)) for name, each in tensors.items()}


def _edit(folder: Path, name: str, **values: Any) -> None:
    path = folder / name
    path.write_text(json.dumps((json.loads(path.read_text()) if path.exists() else {}) | values))


def _pickled(folder: Path) -> None:
    (folder / WEIGHTS).unlink()
    (folder / "adapter_model.bin").write_bytes(pickle.dumps([1]))


def _crafted(folder: Path) -> None:
    """A header that says more than there is."""
    header = json.dumps({"a": {"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 1 << 42]}}).encode()
    (folder / WEIGHTS).write_bytes(len(header).to_bytes(8, "little") + header)


SPOILT: dict[str, tuple[Callable[[Path], Any], str]] = {
    "cut off": (_truncate, "No adapter can be read from what was sent"),
    "a pickle by another name": (lambda f: (f / WEIGHTS).write_bytes(pickle.dumps([1] * 99)), "No adapter can be read"),
    "a pickle": (_pickled, "is a pickle"),
    "a crafted header": (_crafted, "No adapter can be read"),
    "a header of 2^60 bytes": (lambda f: (f / WEIGHTS).write_bytes((1 << 60).to_bytes(8, "little")), "No adapter"),
    "NaN": (lambda f: _retype(f, _with_nan), "not finite"),
    "infinity": (lambda f: _retype(f, _with_infinity), "not finite"),
    "another base's sizes": (lambda f: _retype(f, _wider), "made for another base model"),
    "half of a module": (lambda f: _retype(f, _without_one), "one of two matrices"),
    "an embedding": (lambda f: _retype(f, _with_an_embedding), "lm_head"),
    "too large a rank": (lambda f: (_retype(f, _of_a_large_rank), _edit(f, CONFIG, r=513)), "ranks up to 512"),
    "a rank that it has not": (lambda f: _edit(f, CONFIG, r=8), "says rank 8"),
    "modules that it has not": (lambda f: _edit(f, CONFIG, target_modules=["q_proj"]), "none of its"),
    "DoRA": (lambda f: _edit(f, CONFIG, use_dora=True), "use_dora"),
    "no configuration": (lambda f: (f / CONFIG).unlink(), "no adapter in what was sent"),
    "no weights": (lambda f: (f / WEIGHTS).unlink(), "no adapter in what was sent"),
    "a list as configuration": (lambda f: (f / CONFIG).write_text("[]"), "No adapter can be read"),
    "an export for other weights": (
        lambda f: _edit(f, "export.json", base={"name": "other", "sha256": {"model.safetensors": "0" * 64}}),
        "exported for other weights",
    ),
    "no template": (lambda f: (f / TEMPLATE).unlink(), "which chat template"),
    "a broken template": (lambda f: (f / TEMPLATE).write_text("{% if %}"), "chat template cannot be read"),
}


@pytest.mark.parametrize("fault", SPOILT)
def test_what_cannot_be_used_is_refused_with_what_is_wrong(
    fault: str, given: Path, taken: Import, tmp_path: Path
) -> None:
    spoil, told = SPOILT[fault]
    spoil(given)
    for sent in (given, packed(given, tmp_path / "sent.tar")):
        with pytest.raises(InvalidRequest, match=told) as refused:
            taken(sent, template=None)
        assert str(tmp_path) not in refused.value.message
        assert list((tmp_path / "taken").iterdir()) == []


def member(name: str, **values: Any) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    for key, value in values.items():
        setattr(info, key, value)
    return info, b"" if values else b"x"


@pytest.mark.parametrize(
    ("extra", "told"),
    [
        (member("../outside"), "does not lie in"),
        (member("/etc/cron.d/x"), "does not lie in"),
        (member("mine/../../adapter_config.json"), "does not lie in"),
        (member("mine/adapter_config.json/adapter_config.json"), "does not lie in"),
        (member("/".join(["deep"] * 99) + "/adapter_config.json"), "does not lie in"),
        (member("mine/link", type=tarfile.SYMTYPE, linkname="/etc/passwd"), "is a link"),
        (member("mine/adapter_model.safetensors", type=tarfile.LNKTYPE, linkname="../x"), "is a link"),
        (member("mine/device", type=tarfile.CHRTYPE), "is a link"),
        (member("mine/pipe", type=tarfile.FIFOTYPE), "is a link"),
        (member("other/adapter_config.json"), "several adapters: mine, other"),
    ],
)
def test_an_archive_that_leads_elsewhere_is_refused(
    extra: tuple[tarfile.TarInfo, bytes], told: str, given: Path, taken: Import, tmp_path: Path
) -> None:
    before = {path for path in tmp_path.parent.rglob("*") if tmp_path not in path.parents}
    with pytest.raises(InvalidRequest, match=told):
        taken(packed(given, tmp_path / "sent.tar", extra))
    assert {path for path in tmp_path.parent.rglob("*") if tmp_path not in path.parents} == before


def test_an_archive_that_grows_without_end_is_refused(
    given: Path, taken: Import, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Zeros in a member that is wanted, in one that is left out, and in a header that is read at once."""
    monkeypatch.setattr(incoming, "LEAST_BYTES", 2 * 1024 * 1024)
    huge = 1 << 40

    def bomb(name: str, type_: bytes) -> Path:
        info = tarfile.TarInfo(name)
        info.size, info.type = huge, type_
        path = tmp_path / "bomb.tar.gz"
        with gzip.open(path, "wb") as file:
            file.write(info.tobuf(tarfile.GNU_FORMAT))
            for _ in range(8):
                file.write(bytes(1024 * 1024))
        return path

    cases = [("mine/adapter_model.safetensors", tarfile.REGTYPE), ("mine/optimizer.pt", tarfile.REGTYPE)]
    cases += [("x", tarfile.GNUTYPE_LONGNAME), ("x", tarfile.XHDTYPE), ("x", tarfile.XGLTYPE)]
    for name, type_ in cases:
        with pytest.raises(InvalidRequest, match=r"grows|cannot be read"):
            taken(bomb(name, type_))
        written = sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file())
        assert written < 4 * 1024 * 1024
    monkeypatch.setattr(incoming, "MAX_MEMBERS", 3)
    with pytest.raises(InvalidRequest, match="grows"):
        taken(packed(given, tmp_path / "many.tar"))


@pytest.mark.parametrize("cut", [10, 100, 600, 5000])
def test_archives_that_are_cut_off_are_refused(cut: int, given: Path, taken: Import, tmp_path: Path) -> None:
    whole = packed(given, tmp_path / "sent.tar.gz", mode="w:gz").read_bytes()
    (tmp_path / "cut.tar.gz").write_bytes(whole[:cut])
    with pytest.raises(InvalidRequest, match=r"cannot be read|no adapter"):
        taken(tmp_path / "cut.tar.gz")


def test_a_crafted_gguf_file_is_refused(taken: Import, tuned_dir: Path, tiny_model_dir: Path, tmp_path: Path) -> None:
    """Cut off anywhere, with counts beyond its end, and a whole model."""
    config = read_config(tiny_model_dir)
    path = tmp_path / "lora.gguf"
    write_lora(read_fitting(tuned_dir, config), config, path, "mine")
    whole = path.read_bytes()
    assert read_lora(path, config).modules
    for at in (4, 8, 16, 24):  # version, numbers of tensors and of fields, the first key's length
        path.write_bytes(whole[:at] + b"\xff" * 7 + b"\x00" + whole[at + 8 :])
        with pytest.raises(InvalidRequest, match="No adapter can be read"):
            taken(path)
    for cut in (30, 200, len(whole) // 2, len(whole) - 40):
        path.write_bytes(whole[:cut])
        with pytest.raises(InvalidRequest, match=r"No adapter|no two matrices"):
            taken(path)
    for old, new, told in ((b"adapter", b"modeler", "a model and no LoRA"), (b"llama", b"qwen2", "another base")):
        path.write_bytes(whole.replace(old, new, 3))
        with pytest.raises(InvalidRequest, match=rf"{told}|No adapter"):
            taken(path)


def test_what_was_trained_otherwise_is_told(given: Path, taken: Import) -> None:
    """Another template, one that fails, and another base of the same shape."""
    other = CHATML.replace("<|im_start|>", "### ")
    (given / TEMPLATE).write_text(other)
    for values in ({"template": None}, {"template": other}):
        (told,) = taken(given, **values)["warnings"]
        assert "another chat template" in told
        assert "'### user" in told
    assert taken(given, template="base")["warnings"] == []
    assert "cannot render" in taken(given, template="{{ raise_exception('no') }}")["warnings"][0]
    (given / TEMPLATE).unlink()
    _edit(given, "tokenizer_config.json", chat_template=[{"name": "default", "template": other}])
    assert "another chat template" in taken(given, template=None)["warnings"][0]
    _edit(given, CONFIG, base_model_name_or_path="unsloth/other-1B")
    (told,) = taken(given)["warnings"]
    assert "'unsloth/other-1B'" in told
