"""A hub of models on this machine: what of the Hugging Face hub's HTTP API is used to fetch a model, over a folder.

Files are really served, with ETag and Range as the hub has them; large ones by their SHA-256, small ones by git's hash.
"""

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

COMMIT = "c" * 40
LARGE = (".safetensors", ".gguf", ".bin")


@dataclass
class Repository:
    folder: Path
    card: dict[str, Any] = field(default_factory=dict)  # the head of its README
    gated: bool = False
    wrong_hashes: set[str] = field(default_factory=set)  # files whose hash in the listing is another's


@dataclass
class Hub:
    url: str
    repositories: dict[str, Repository] = field(default_factory=dict)
    asked: list[tuple[str, str]] = field(default_factory=list)  # path and Range of each file that was sent
    cut_after: dict[str, int] = field(default_factory=dict)  # a file's connection ends after so many bytes, once
    token: str = ""


@contextmanager
def serve_hub() -> Iterator[Hub]:
    hub = Hub("")

    class Handler(_Handler):
        served = hub

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    served: Hub

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def _answer(self, *, with_body: bool) -> None:
        path = self.path.partition("?")[0].strip("/")
        if path.startswith("api/models/"):
            return self._about(path.removeprefix("api/models/"))
        parts = path.split("/")
        if len(parts) > 4 and parts[2] == "resolve":
            return self._file("/".join(parts[:2]), "/".join(parts[4:]), with_body)
        return self._refuse(404, "EntryNotFound")

    def _about(self, rest: str) -> None:
        name, _, revision = rest.partition("/revision/")
        repository = self._open(name)
        if repository is None:
            return
        if revision not in ("", "main", COMMIT):
            return self._refuse(404, "RevisionNotFound")
        document = {
            "id": name, "modelId": name, "sha": COMMIT, "private": False, "tags": [], "downloads": 0,
            "cardData": repository.card or None, "siblings": list(map(self._sibling(repository), _files(repository))),
        }  # fmt: skip
        self._send(200, json.dumps(document).encode(), {"content-type": "application/json"})

    def _sibling(self, repository: Repository) -> Any:
        def about(path: Path) -> dict[str, Any]:
            name, content = path.relative_to(repository.folder).as_posix(), path.read_bytes()
            entry: dict[str, Any] = {"rfilename": name, "size": len(content), "blobId": _blob(content)}
            if name.endswith(LARGE):
                sha256 = "0" * 64 if name in repository.wrong_hashes else hashlib.sha256(content).hexdigest()
                entry["lfs"] = {"sha256": sha256, "size": len(content), "pointerSize": 130}
            return entry

        return about

    def _file(self, name: str, file: str, with_body: bool) -> None:
        repository = self._open(name)
        if repository is None:
            return
        path = repository.folder / file
        if not path.is_file():
            return self._refuse(404, "EntryNotFound")
        content, wanted = path.read_bytes(), self.headers.get("range", "")
        etag = hashlib.sha256(content).hexdigest() if file.endswith(LARGE) else _blob(content)
        start = int(wanted.removeprefix("bytes=").partition("-")[0]) if wanted else 0
        headers = {"etag": f'"{etag}"', "x-repo-commit": COMMIT, "accept-ranges": "bytes"}
        if wanted:
            headers["content-range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        if not with_body:
            return self._send(206 if wanted else 200, content[start:], headers, with_body=False)
        self.served.asked.append((file, wanted))
        cut = self.served.cut_after.pop(file, None)
        self._send(206 if wanted else 200, content[start:], headers, cut=cut)

    def _open(self, name: str) -> Repository | None:
        repository = self.served.repositories.get(name)
        if repository is None:
            self._refuse(404, "RepoNotFound")
        elif repository.gated and self.headers.get("authorization") != f"Bearer {self.served.token}":
            self._refuse(403 if "authorization" in self.headers else 401, "GatedRepo")
        else:
            return repository
        return None

    def _refuse(self, status: int, code: str) -> None:
        self._send(status, b"{}", {"x-error-code": code, "x-error-message": code})

    def _send(
        self, status: int, body: bytes, headers: dict[str, str], *, with_body: bool = True, cut: int | None = None
    ) -> None:
        self.send_response(status)
        for name, value in {**headers, "content-length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if with_body:
            self.wfile.write(body if cut is None else body[:cut])
        if cut is not None:
            self.close_connection = True


def _files(repository: Repository) -> list[Path]:
    return sorted(path for path in repository.folder.rglob("*") if path.is_file())


def _blob(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
