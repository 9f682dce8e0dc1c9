"""The engine as a process of its own: it says when it is ready, and leaves when told."""

import signal
import socket
import subprocess
import sys
from pathlib import Path

import httpx

from tunery.serving.server import listen
from tunery.serving.settings import parse_arguments


def test_the_process_says_ready_answers_and_ends_at_a_signal(tiny_model_dir: Path) -> None:
    command = [sys.executable, "-m", "tunery.serving", "--model-dir", str(tiny_model_dir), "--dtype", "float32"]
    with subprocess.Popen([*command, "--served-name", "base"], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            word, url = process.stdout.readline().split()
            body = {"model": "base", "messages": [{"role": "user", "content": "x"}], "max_tokens": 3}
            answer = httpx.post(f"{url}/v1/chat/completions", json=body, timeout=60)
            process.send_signal(signal.SIGTERM)
            status = process.wait(30)
        finally:
            process.kill()

    assert word == "ready"
    assert answer.status_code == 200
    assert status in (0, -signal.SIGTERM)  # uvicorn raises the signal again when it has cleaned up


def test_a_folder_without_a_model_is_one_sentence(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tunery.serving", "--model-dir", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)

    assert done.returncode == 1
    assert "is no folder of a model" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_answers_packets_do_not_wait_for_each_other() -> None:
    with listen("127.0.0.1", 0) as listener, socket.create_connection(listener.getsockname()):
        accepted, _ = listener.accept()
        with accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_names_and_defaults_come_from_the_command_line(tmp_path: Path) -> None:
    settings = parse_arguments(["--model-dir", str(tmp_path / "m"), "--served-name", "a", "--served-name", "b"])

    assert settings.served_names == ("a", "b")
    assert parse_arguments(["--model-dir", str(tmp_path / "m")]).served_names == ("m",)
