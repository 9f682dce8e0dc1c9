"""Base weights from the Hugging Face hub: `hf:org/name@revision`, or one GGUF file there, `hf:org/name/file.gguf`.

What another program has fetched into the hub's own cache (HF_HOME) is linked from ours. All else is fetched into ours,
file by file: a download that was cut off goes on where it ended, also in another process, and each file is held to the
hash that the hub has for it. HF_ENDPOINT, HF_TOKEN and HF_HUB_OFFLINE hold.

Apart because a kind of source is a file.
"""

import hashlib
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, constants, hf_hub_url, snapshot_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.file_download import http_get
from huggingface_hub.utils import build_hf_headers

from tunery.models.catalog import Artifact
from tunery.models.sources.base import Facts, Look, Progress, SourceError, download_folder
from tunery.models.sources.gguf_file import read_file
from tunery.models.sources.path import (
    PATTERNS,
    card_of,
    check_files,
    licence_and_languages,
    link_files,
    sha256_of,
    weights_among,
)
from tunery.texts import say

COMMIT = re.compile(r"[0-9a-f]{40}")
# No answer: what the hub's HTTP client raises, which has another name in each of its versions.
AWAY: tuple[type[Exception], ...] = (OfflineModeIsEnabled, *HfHubHTTPError.__bases__[:1])


@dataclass(frozen=True)
class Place:
    """`org/name`, and of a repository of GGUF files the one that is meant."""

    repository: str
    file: str
    revision: str

    @classmethod
    def of(cls, location: str) -> "Place":
        name, _, revision = location.partition("@")
        parts = name.split("/")
        return cls("/".join(parts[:2]), "/".join(parts[2:]), revision)

    def __str__(self) -> str:
        name = f"{self.repository}/{self.file}" if self.file else self.repository
        return f"{name}@{self.revision}" if self.revision else name


@dataclass(frozen=True)
class RemoteFile:
    name: str
    size: int
    sha256: str  # of a large file; "": git's own hash is known
    blob: str  # SHA-1 as git has it

    def is_equal(self, path: Path) -> bool:
        if self.sha256:
            return sha256_of(path) == self.sha256
        content = path.read_bytes()
        return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest() == self.blob


@dataclass(frozen=True)
class Listing:
    commit: str
    files: list[RemoteFile]
    licence: str
    languages: tuple[str, ...]


def settle(location: str) -> str:
    """With the commit that the revision, or the main branch, points at now. Raises SourceError."""
    place = Place.of(location)
    if COMMIT.fullmatch(place.revision):
        return location
    with _in_our_words(place):
        found = HfApi().model_info(place.repository, revision=place.revision or None)
    return str(Place(place.repository, place.file, found.sha or place.revision))


def fetch(location: str, target: Path, progress: Progress, artifact: Artifact | None, look: Look) -> Facts:
    """Raises SourceError, and what `look` does."""
    place = Place.of(location)
    progress("downloading", 0, None)
    listing, reason = _list(place)
    folder = _in_hubs_cache(place, listing)
    if folder is not None:
        known = listing or Listing("", [], *card_of(folder / "README.md"))
        look(folder, Facts(known.licence, known.languages))
        link_files(folder, target)
        files = {path.name: sha256_of(path) for path in sorted(target.iterdir()) if path.is_file()}
        check_files(files, artifact)
        return Facts(known.licence, known.languages, files)
    if listing is None:
        assert reason is not None
        raise reason
    return _fetch(place, listing, target, progress, artifact, look)


def _list(place: Place) -> tuple[Listing | None, SourceError | None]:
    """What the hub has; or why it does not say."""
    try:
        with _in_our_words(place):
            found = HfApi().model_info(place.repository, revision=place.revision or None, files_metadata=True)
    except SourceError as exc:
        return None, exc
    card: dict[str, Any] = found.card_data.to_dict() if found.card_data else {}
    licence, languages = licence_and_languages(card)
    files = [
        RemoteFile(each.rfilename, each.size or 0, each.lfs.sha256 if each.lfs else "", each.blob_id or "")
        for each in found.siblings or ()
    ]
    return Listing(found.sha or place.revision, files, licence, languages), None


def _in_hubs_cache(place: Place, listing: Listing | None) -> Path | None:
    """The whole snapshot, where another program has fetched it."""
    if place.file:
        return None
    revision = listing.commit if listing else place.revision or None
    try:
        folder = Path(snapshot_download(place.repository, revision=revision, local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError):
        return None
    names = [file.name for file in _wanted(place, listing.files)] if listing else ["config.json"]
    return folder if all((folder / name).exists() for name in names) else None


def _fetch(
    place: Place, listing: Listing, target: Path, progress: Progress, artifact: Artifact | None, look: Look
) -> Facts:
    wanted = _wanted(place, listing.files)
    if not any(file.name.endswith((".safetensors", ".gguf")) for file in wanted):
        problem = "source.pickle_only" if _holds_pickles(listing.files) else "source.no_weights"
        raise SourceError(say(problem, source=place.repository))
    folder = download_folder(f"hf:{place}", target.parent)
    folder.mkdir(parents=True, exist_ok=True)
    total, done = sum(file.size for file in wanted), 0
    # The small ones first, so that what cannot be used is known before the weights are fetched.
    has_looked = bool(place.file)
    for file in sorted(wanted, key=lambda file: (file.name.endswith(".safetensors"), file.size)):
        if file.name.endswith(".safetensors") and not has_looked:
            look(folder, Facts(listing.licence, listing.languages))
            has_looked = True
        before = done
        _download(
            place, listing.commit, file, folder, lambda more, at=before: progress("downloading", at + more, total)
        )
        done += file.size
    files = {file.name: file.sha256 or sha256_of(folder / file.name) for file in wanted}
    check_files(files, artifact)
    if place.file:
        named = read_file(folder / place.file, target, progress)
        return Facts(listing.licence or named, listing.languages, files)
    _move(folder, target, wanted)
    return Facts(listing.licence, listing.languages, files)


def _wanted(place: Place, files: list[RemoteFile]) -> list[RemoteFile]:
    if place.file:
        found = [file for file in files if file.name == place.file]
        if not found:
            raise SourceError(say("source.no_such_file", source=place.repository, file=place.file))
        return found
    names = [file.name for file in files]
    weights = weights_among([name for name in names if "/" not in name])
    modules = "modules.json" in names  # sentence-transformers keeps settings in folders such as 1_Pooling
    return [
        file
        for file in files
        if file.name in weights
        or (not file.name.endswith(".safetensors") and "/" not in file.name and _fits(file.name))
        or (modules and file.name.count("/") == 1 and file.name.endswith("config.json"))
    ]


def _fits(name: str) -> bool:
    return any(fnmatch(name, pattern) for pattern in PATTERNS)


def _holds_pickles(files: list[RemoteFile]) -> bool:
    return any(file.name.endswith((".bin", ".pt", ".pth", ".ckpt", ".pkl")) for file in files)


def _download(place: Place, commit: str, file: RemoteFile, folder: Path, progress: Any) -> None:
    """One file, from where an earlier try ended. It has its name when it is whole and has its hash."""
    path = folder / file.name
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    with part.open("ab") as output:
        if output.tell() > file.size:
            output.truncate(0)
        done = output.tell()
        with _in_our_words(place):
            http_get(
                hf_hub_url(place.repository, file.name, revision=commit),
                output,
                resume_size=done,
                headers=build_hf_headers(),
                expected_size=file.size,
                tqdm_class=_counter(progress),
            )
    if not file.is_equal(part):
        part.unlink()
        raise SourceError(say("source.damaged_download", file=file.name, source=place.repository))
    part.rename(path)


def _counter(progress: Any) -> Any:
    """What the hub's library takes for a progress bar."""

    class Counter:
        def __init__(self, *, initial: int = 0, **_: Any) -> None:
            self._done = initial

        def __enter__(self) -> "Counter":
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def update(self, count: int) -> None:
            self._done += count
            progress(self._done)

        def close(self) -> None:
            pass

    return Counter


def _move(folder: Path, target: Path, files: list[RemoteFile]) -> None:
    for file in files:
        (target / file.name).parent.mkdir(parents=True, exist_ok=True)
        shutil.move(folder / file.name, target / file.name)


@contextmanager
def _in_our_words(place: Place) -> Iterator[None]:
    """What the hub says to a stranger, and what to do about it."""
    name, hub = place.repository, constants.ENDPOINT
    try:
        yield
    except GatedRepoError as exc:
        raise SourceError(say("source.gated", source=name, hub=hub), code="model_gated") from exc
    except RevisionNotFoundError as exc:
        raise SourceError(say("source.no_such_revision", source=name, revision=place.revision)) from exc
    except RepositoryNotFoundError as exc:
        raise SourceError(say("source.no_such_repository", source=name, hub=hub)) from exc
    except (EntryNotFoundError, HFValidationError) as exc:
        raise SourceError(say("source.not_on_hub", source=str(place), hub=hub, reason=_line(exc))) from exc
    except HfHubHTTPError as exc:
        if exc.response is not None and exc.response.status_code in (401, 403):
            raise SourceError(say("source.gated", source=name, hub=hub), code="model_gated") from exc
        raise SourceError(say("source.not_on_hub", source=str(place), hub=hub, reason=_line(exc))) from exc
    except AWAY as exc:
        raise SourceError(say("source.hub_away", source=str(place), hub=hub, reason=_line(exc))) from exc


def _line(exc: Exception) -> str:
    return str(exc).strip().partition("\n")[0] or type(exc).__name__
