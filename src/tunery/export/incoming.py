"""An adapter that was trained elsewhere: found in what was sent, checked, and written as one of ours.

Nothing of what was sent goes on but numbers and names: it is read by the one reader of adapters and written anew. What
else lies in a folder of TRL, LLaMA-Factory or Unsloth (optimizer states, checkpoints, pickles) is never opened.
"""

import gzip
import json
import re
import shutil
import tarfile
import tempfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

import torch

from tunery.chat.render import Renderer
from tunery.chat.template import ChatTemplate, RenderError, load_template
from tunery.domain.errors import InvalidRequest
from tunery.export.lora_gguf import read_lora
from tunery.export.proof import conversations
from tunery.export.spec import BASE_TEMPLATE, ImportSpec
from tunery.export.write import REPORT, read_fitting
from tunery.models.adapter_config import CONFIG_FILE, WEIGHTS_FILE, UnsupportedAdapter
from tunery.models.adapter_files import AdapterFiles, write_adapter
from tunery.models.config import read_config
from tunery.models.sources import cache as sources
from tunery.texts import say, with_texts

MAX_RANK = 512  # what vLLM serves at most
MAX_DOCUMENT_BYTES = 64 * 1024 * 1024  # of JSON and templates: the largest tokenizers have 35 MB
MAX_GROWTH = 20  # by which an archive may grow when it is unpacked; weights hardly shrink at all
LEAST_BYTES = 256 * 1024 * 1024  # to which any archive may grow
MAX_MEMBERS = 10_000
READ_BYTES = 1024 * 1024

_DOCUMENTS = {CONFIG_FILE, REPORT, "chat_template.jinja", "tokenizer_config.json", "tokenizer.json"}
_PICKLES = (".bin", ".pt", ".pth", ".pkl", ".ckpt")
_GGUF = "adapter.gguf"
_ROUNDED = re.compile("(-unsloth)?-bnb-4bit$")  # Unsloth's name for the same base in 4 bits, to train beside


def take_in(spec: ImportSpec, target: Path) -> dict[str, Any]:
    """Write the adapter that was sent into the folder `target`; what is to be told of it. Raises InvalidRequest or
    UnsupportedAdapter, which say what is wrong."""
    config = read_config(spec.model_dir)
    with tempfile.TemporaryDirectory(prefix="import-", dir=target.parent) as name:
        sent = Path(name)
        unpack(spec.files, sent)
        root = find_adapter(sent)
        try:
            adapter = read_lora(root / _GGUF, config) if (root / _GGUF).exists() else read_fitting(root, config)
        except UnsupportedAdapter as exc:
            raise InvalidRequest(str(exc).replace(repr(str(root)), "what was sent"), param="files") from exc
        _check_numbers(adapter)
        _check_base(spec, root)
        told = [*_base_warnings(spec, root), *_template_warnings(spec, root)]
        write_adapter(target, adapter, spec.source)
        read_fitting(target, config)  # as the engine will
    return with_texts({"rank": adapter.config.rank, "num_modules": len(adapter.modules), "warnings": told})


# ---- unpacking


def unpack(files: Mapping[str, Path], into: Path) -> None:
    """What is of use, from archives and files as they were sent. Raises InvalidRequest."""
    pickles: list[str] = []
    for name, path in files.items():
        with path.open("rb") as file:
            start = file.read(512)
        if start[:2] == b"\x1f\x8b" or start[257:262] == b"ustar":
            pickles += _unpack_tar(path, into)
        elif start[:4] == b"GGUF":
            shutil.copyfile(path, into / _GGUF)
        elif _is_of_use(PurePosixPath(name).name, path.stat().st_size):
            shutil.copyfile(path, into / PurePosixPath(name).name)
        elif name.endswith(_PICKLES):
            pickles.append(name)
    if pickles and not any(path.name in (WEIGHTS_FILE, _GGUF) for path in into.rglob("adapter*")):
        raise InvalidRequest(say("error.import_pickle", name=pickles[0][:200]), param="files")


def _is_of_use(name: str, num_bytes: int) -> bool:
    if name in _DOCUMENTS and num_bytes > MAX_DOCUMENT_BYTES:
        raise InvalidRequest(say("error.import_too_large", name=name, most=MAX_DOCUMENT_BYTES), param="files")
    return name in _DOCUMENTS or name == WEIGHTS_FILE


class _Bounded:
    """A file of which no more is unpacked than `most`, and no more at once than a piece: a small archive can name
    terabytes of zeros, in its members as in their headers."""

    def __init__(self, file: BinaryIO, most: int) -> None:
        self._file, self._most = file, most

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= READ_BYTES or self._file.tell() + size > self._most + READ_BYTES:
            raise InvalidRequest(say("error.import_bomb"), param="files")
        return self._file.read(size)

    def seek(self, offset: int, whence: int = 0) -> int:
        if whence != 0 or offset > self._most:
            raise InvalidRequest(say("error.import_bomb"), param="files")
        return self._file.seek(offset)

    def tell(self) -> int:
        return self._file.tell()


def _unpack_tar(path: Path, into: Path) -> list[str]:
    """The pickles that were left."""
    pickles: list[str] = []
    try:
        with _opened(path) as archive:
            for number, member in enumerate(archive):
                parts = _parts_of(member)
                if number >= MAX_MEMBERS:
                    raise InvalidRequest(say("error.import_bomb"), param="files")
                if not member.isfile():
                    continue
                if parts[-1].endswith(".gguf"):
                    parts = (*parts[:-1], _GGUF)
                elif not _is_of_use(parts[-1], member.size):
                    pickles += [parts[-1]] if parts[-1].endswith(_PICKLES) else []
                    continue
                _copy(archive, member, into.joinpath(*parts))
    except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile, UnicodeError) as exc:
        raise InvalidRequest(say("error.import_archive", reason=exc), param="files") from exc
    return pickles


@contextmanager
def _opened(path: Path) -> Iterator[tarfile.TarFile]:
    size = path.stat().st_size
    with path.open("rb") as plain:
        is_packed = plain.read(2) == b"\x1f\x8b"
        plain.seek(0)
        file: Any = gzip.GzipFile(fileobj=plain) if is_packed else plain
        bounded: Any = _Bounded(file, max(LEAST_BYTES, MAX_GROWTH * size) if is_packed else size)
        with tarfile.open(fileobj=bounded, mode="r:") as archive:
            yield archive


def _parts_of(member: tarfile.TarInfo) -> tuple[str, ...]:
    """Its place below the archive's top. Raises InvalidRequest for one that leads out of it, and for links."""
    path = PurePosixPath(member.name)
    if path.is_absolute() or ".." in path.parts or "\0" in member.name or len(path.parts) > 16:
        raise InvalidRequest(say("error.import_path", name=member.name[:200]), param="files")
    if not member.isfile() and not member.isdir():
        raise InvalidRequest(say("error.import_link", name=member.name[:200]), param="files")
    if member.issparse():
        raise InvalidRequest(say("error.import_bomb"), param="files")
    return path.parts or (".",)


def _copy(archive: tarfile.TarFile, member: tarfile.TarInfo, to: Path) -> None:
    try:
        to.parent.mkdir(parents=True, exist_ok=True)
        with to.open("wb") as out:
            source = archive.extractfile(member)
            assert source is not None
            shutil.copyfileobj(source, out, READ_BYTES)
    except (FileExistsError, IsADirectoryError, NotADirectoryError) as exc:
        raise InvalidRequest(say("error.import_path", name=member.name[:200]), param="files") from exc


def find_adapter(sent: Path) -> Path:
    """The folder of the one adapter: the checkpoints of a run lie deeper than what came of it. Raises
    InvalidRequest."""
    found = [path.parent for name in (CONFIG_FILE, _GGUF) for path in sent.rglob(name)]
    least = min((len(folder.parts) for folder in found), default=0)
    highest = {folder for folder in found if len(folder.parts) == least}
    if len(highest) != 1:
        names = ", ".join(sorted(str(folder.relative_to(sent)) for folder in highest))
        problem = say("error.import_several", folders=names[:500]) if highest else say("error.import_nothing")
        raise InvalidRequest(problem, param="files")
    root = highest.pop()
    if not any((root / name).exists() for name in (WEIGHTS_FILE, _GGUF)):
        raise InvalidRequest(say("error.import_nothing"), param="files")
    return root


# ---- checks


def _check_numbers(adapter: AdapterFiles) -> None:
    for name, matrices in adapter.modules.items():
        if not all(bool(torch.isfinite(half).all()) for half in (matrices.a, matrices.b)):
            raise InvalidRequest(say("error.import_not_finite", module=name), param="files")
        if len(matrices.a) > MAX_RANK:
            message = say("error.import_rank", rank=len(matrices.a), most=MAX_RANK, module=name)
            raise InvalidRequest(message, param="files")


def _check_base(spec: ImportSpec, root: Path) -> None:
    """An export of ours says which weights it is for."""
    known = _read_json(root / REPORT).get("base", {})
    hashes = known.get("sha256", {}) if isinstance(known, dict) else {}
    if isinstance(hashes, dict) and sources.is_changed(spec.model_dir, hashes):
        message = say("error.import_other_base", name=str(known.get("name"))[:200], base=spec.base)
        raise InvalidRequest(message, param="base")


def _base_warnings(spec: ImportSpec, root: Path) -> list[str]:
    """Shapes fit; what the folder calls its base may tell that the weights do not."""
    named = str(_read_json(root / CONFIG_FILE).get("base_model_name_or_path") or "")
    if not named or _read_json(root / REPORT).get("base"):
        return []
    places = {spec.source, spec.source.partition(":")[2].partition("@")[0], spec.base}
    own = _ROUNDED.sub("", named.lower().rpartition("/")[2])
    return (
        []
        if own in {place.lower().rpartition("/")[2] for place in places}
        else [say("warning.import_base", named=named[:200], base=spec.base, source=spec.source)]
    )


def _template_warnings(spec: ImportSpec, root: Path) -> list[str]:
    """Raises InvalidRequest when nobody says which template it was trained with."""
    if spec.completes or spec.template == BASE_TEMPLATE:
        return []
    ours = Renderer.from_dir(spec.model_dir)
    theirs = spec.template or _template_in(root)
    if theirs is None:
        raise InvalidRequest(say("error.import_template"), param="chat_template")
    try:
        template = ChatTemplate(theirs, ours.special_tokens)
    except Exception as exc:  # whatever Jinja makes of what somebody sent
        raise InvalidRequest(say("error.import_template_broken", reason=exc), param="chat_template") from exc
    for messages, _ in conversations(ours):
        try:
            text = template.render(messages, add_generation_prompt=True)
        except RenderError as exc:
            return [say("warning.import_template_fails", reason=exc.message)]
        if text != (here := ours.template.render(messages, add_generation_prompt=True)):
            return [say("warning.import_template", theirs=text[:500], ours=here[:500])]
    return []


def _template_in(root: Path) -> str | None:
    try:
        return load_template(root, _read_json(root / "tokenizer_config.json"))
    except (FileNotFoundError, UnicodeError, KeyError, TypeError):
        return None


def _read_json(path: Path) -> dict[str, Any]:
    """{} for a file that is not there, or is no object."""
    try:
        found = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
