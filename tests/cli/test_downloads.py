"""What a command downloads goes to the disk as it comes."""

import tracemalloc
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
from openai import NotFoundError, OpenAI

from tunery.cli.connection import CommandFailed
from tunery.cli.files import copied

PIECE = b'{"custom_id": "x"}\n' * 5_000
NUM_PIECES = 400  # 38 MB


class Files(BaseHTTPRequestHandler):
    """/files/whole/content is all of it, /files/cut/content breaks off, others are not there."""

    def do_GET(self) -> None:
        kind = self.path.split("/")[2]
        self.send_response(200 if kind in ("whole", "cut") else 404)
        self.send_header("content-length", str(len(PIECE) * NUM_PIECES if kind in ("whole", "cut") else 0))
        self.end_headers()
        for _ in range({"whole": NUM_PIECES, "cut": NUM_PIECES // 2}.get(kind, 0)):
            self.wfile.write(PIECE)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def client() -> Iterator[OpenAI]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Files) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield OpenAI(base_url=f"http://127.0.0.1:{server.server_port}", api_key="sk-x", max_retries=0)
        server.shutdown()


def test_a_large_file_is_never_in_memory(client: OpenAI, tmp_path: Path) -> None:
    to = tmp_path / "answers.jsonl"
    tracemalloc.start()
    num_lines = sum(piece.count(b"\n") for piece in copied(client, "whole", to))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (num_lines, to.stat().st_size) == (5_000 * NUM_PIECES, len(PIECE) * NUM_PIECES)
    assert peak < to.stat().st_size / 4


@pytest.mark.parametrize(("file_id", "error"), [("cut", CommandFailed), ("missing", NotFoundError)])
def test_what_breaks_off_leaves_what_was_there(
    client: OpenAI, tmp_path: Path, file_id: str, error: type[Exception]
) -> None:
    to = tmp_path / "answers.jsonl"
    to.write_text("before")
    with pytest.raises(error):
        list(copied(client, file_id, to))
    assert (to.read_text(), list(tmp_path.iterdir())) == ("before", [to])


def test_a_link_and_a_device_stay_what_they_are(client: OpenAI, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "file")
    assert sum(len(piece) for piece in copied(client, "whole", tmp_path / "link")) == len(PIECE) * NUM_PIECES
    assert (tmp_path / "link").is_symlink() and (tmp_path / "file").stat().st_size == len(PIECE) * NUM_PIECES
    list(copied(client, "whole", Path("/dev/null")))
    assert Path("/dev/null").is_char_device()
