"""Bytes by path, in a directory or in S3, always as streams. An object is there whole or not at all."""

import hashlib
import os
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO
from urllib.parse import unquote, urlsplit

import obstore
from obstore.exceptions import BaseError
from obstore.store import LocalStore, S3Store

from tunery import atomic, private
from tunery.domain.errors import NotFound
from tunery.settings import Settings, SettingsError

CHUNK_BYTES = 5 * 1024 * 1024  # S3 takes no smaller part
Source = Iterable[bytes] | BinaryIO | Path | bytes


@dataclass(frozen=True)
class BlobInfo:
    path: str
    bytes: int
    sha256: str  # hex


class NoSuchBlob(NotFound):
    """The row is there and its bytes are not: somebody removed them from the folder or the bucket."""


class Blobs:
    def __init__(self, store: LocalStore | S3Store, folder: Path | None = None) -> None:
        self._store = store
        self._folder = folder

    @classmethod
    def open(cls, settings: Settings, *, max_retries: int = 10) -> "Blobs":
        """By `blob_url`: file:///folder (made when missing) or s3://bucket/prefix. Raises SettingsError.

        `max_retries`: of a request to S3 that fails in a way that may pass.
        """
        url = urlsplit(settings.resolved_blob_url)
        if url.scheme == "file":
            return cls.in_folder(Path(unquote(url.path)))
        if url.scheme != "s3":
            raise SettingsError(f"blob_url must begin with file:// or s3://, not {settings.blob_url!r}.")
        return cls(_s3_store(url.netloc, url.path.strip("/"), settings, max_retries))

    @classmethod
    def in_folder(cls, folder: Path) -> "Blobs":
        folder.mkdir(parents=True, exist_ok=True)
        private.close(folder)  # it may lie outside home
        return cls(LocalStore(folder, automatic_cleanup=True), folder)

    def put(self, path: str, source: Source) -> BlobInfo:
        """Store the stream. When it breaks off, nothing is stored and the error goes on to the caller."""
        meter = _Meter(source)
        obstore.put(self._store, _checked(path), meter.chunks(), chunk_size=CHUNK_BYTES)
        if self._folder is not None:  # a row that names the object must not outlive it in a power cut
            atomic.sync(self._folder / path)
            atomic.sync((self._folder / path).parent)
        return BlobInfo(path, meter.num_bytes, meter.sha256.hexdigest())

    def get(self, path: str) -> Generator[bytes]:
        """The whole object, piece by piece. Raises NoSuchBlob at once, not at the first piece."""
        try:
            found = obstore.get(self._store, _checked(path))
        except FileNotFoundError as exc:
            raise NoSuchBlob(f"The content of {path} is missing from the blob store.") from exc
        return (bytes(piece) for piece in found.stream(min_chunk_size=1024 * 1024))

    def read(self, path: str) -> bytes:
        return b"".join(self.get(path))

    def download(self, path: str, to: Path) -> None:
        """Atomic: `to` is absent or whole."""
        to.parent.mkdir(parents=True, exist_ok=True)
        with atomic.replacing(to) as part, part.open("wb") as out:
            for piece in self.get(path):
                out.write(piece)

    def fetch(self, path: str, to: Path) -> None:
        """A link where the objects lie on this disk, else a copy."""
        to.unlink(missing_ok=True)
        try:
            if self._folder is not None:
                os.link(self._folder / _checked(path), to)
                return
        except OSError:
            pass  # another file system, or one without links
        self.download(path, to)

    def upload_dir(self, prefix: str, folder: Path) -> tuple[BlobInfo, ...]:
        """Every file below `folder`, under its relative path."""
        found = sorted(path for path in folder.rglob("*") if path.is_file())
        return tuple(self.put(f"{prefix}/{path.relative_to(folder).as_posix()}", path) for path in found)

    def download_dir(self, prefix: str, folder: Path) -> int:
        """The number of files that were there."""
        paths = self.list(prefix)
        for path in paths:
            self.download(path, folder / PurePosixPath(path).relative_to(prefix))
        return len(paths)

    def delete(self, path: str) -> None:
        """No error when it is gone already."""
        try:
            obstore.delete(self._store, _checked(path))
        except FileNotFoundError:
            return

    def delete_dir(self, prefix: str) -> None:
        for path in self.list(prefix):
            self.delete(path)

    def list(self, prefix: str) -> tuple[str, ...]:
        """The paths below the folder `prefix`, sorted."""
        batches = obstore.list(self._store, prefix=_checked(prefix))  # pyright: ignore[reportUnknownMemberType]
        return tuple(sorted(item["path"] for batch in batches for item in batch))

    async def is_up(self) -> bool:
        """Whether the store answers; nothing is written. Where it is a bucket, the bucket may still have to be made."""
        try:
            await obstore.head_async(self._store, "is-anybody-there")
        except FileNotFoundError:
            return True
        except (BaseError, OSError):
            return False
        return True

    def local_path(self, path: str) -> Path | None:
        """Where the object lies on this machine's disk, for readers that map it; None in S3. Not to be written to."""
        return None if self._folder is None else self._folder / _checked(path)


def _s3_store(bucket: str, prefix: str, settings: Settings, max_retries: int) -> S3Store:
    options: dict[str, Any] = {"bucket": bucket, "region": settings.s3_region}
    options["retry_config"] = {"max_retries": max_retries}
    if settings.s3_endpoint:
        options["endpoint"] = settings.s3_endpoint
    if settings.s3_access_key_id:  # else the usual places: environment, profile, instance role
        options["access_key_id"] = settings.s3_access_key_id
        options["secret_access_key"] = settings.s3_secret_access_key.get_secret_value()
    is_plain = settings.s3_endpoint.startswith("http://")
    return S3Store(prefix=prefix or None, client_options={"allow_http": is_plain}, **options)


class _Meter:
    """Counts and hashes what passes, in chunks of a size the store likes."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self.num_bytes = 0
        self.sha256 = hashlib.sha256()

    def chunks(self) -> Iterator[bytes]:
        for piece in _pieces(self._source):
            if piece:
                self.num_bytes += len(piece)
                self.sha256.update(piece)
                yield piece


def _pieces(source: Source) -> Iterator[bytes]:
    if isinstance(source, bytes):
        yield source
    elif isinstance(source, Path):
        with source.open("rb") as file:
            yield from iter(lambda: file.read(1024 * 1024), b"")
    elif hasattr(source, "read"):
        yield from iter(lambda: source.read(1024 * 1024), b"")  # type: ignore[union-attr]
    else:
        yield from source


def _checked(path: str) -> str:
    """Paths are made of our ids, yet one that leaves the store would be a hole: refuse it here, for all."""
    if not path or path.startswith("/") or any(part in ("", ".", "..") for part in path.split("/")):
        raise ValueError(f"Not a blob path: {path!r}")
    return path
