"""A real vLLM in the engine's place: `make vllm` runs the engine's own tests against it.

TUNERY_TEST_VLLM names the Python of an environment that has vLLM. Where it is set, `start_engine` and `EngineServer`
put the HTTP face before a vLLM; else before the engine, and vLLM's own tests say that it is not installed.
"""

import atexit
import os
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import httpx
import psutil
import pytest

PYTHON = os.environ.get("TUNERY_TEST_VLLM", "")  # read at import: no test sees the environment's settings
needs_vllm = pytest.mark.skipif(not PYTHON, reason="vLLM is not installed: `make vllm` does, and runs these")

START_S = 600
# As docs/serving.md tells.
FLAGS = [
    *("--enable-lora", "--max-lora-rank", "64", "--max-loras", "4", "--max-cpu-loras", "64"),
    *("--enable-prompt-tokens-details", "--scheduling-policy", "priority", "--generation-config", "vllm"),
    *("--structured-outputs-config", '{"backend": "guidance"}'),
    *("--dtype", "float32", "--enforce-eager"),
]
ENVIRONMENT = {
    "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_HOST_IP": "127.0.0.1",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "HF_HUB_OFFLINE": "1",
    "TORCHDYNAMO_DISABLE": "1",  # else the first requests wait for a C++ compiler, minutes on a busy machine
}


class VllmProcess:
    def __init__(self, model_dir: Path, *arguments: str, cores: Sequence[int] = ()) -> None:
        """Started, not yet ready: that takes a minute. `arguments`: more of vLLM's. `cores`: those that it computes on,
        all where none is named."""
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        self.log = Path(tempfile.mkdtemp(prefix="vllm-")) / "log"
        command = [PYTHON, "-m", "vllm.entrypoints.openai.api_server", "--model", str(model_dir)]
        command += ["--host", "127.0.0.1", "--port", str(port), *FLAGS, *arguments]
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | ENVIRONMENT
        if cores:
            environment["VLLM_CPU_OMP_THREADS_BIND"] = listed = ",".join(map(str, cores))
            command = ["taskset", "--cpu-list", listed, *command]
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, env=environment, start_new_session=True)

    @property
    def process(self) -> psutil.Process:
        return psutil.Process(self._process.pid)

    def wait(self) -> None:
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline:
            assert self._process.poll() is None, f"vLLM did not start: {self.log.read_text()[-3000:]}"
            try:
                if httpx.get(f"{self.url}/health", timeout=5).status_code == 200:
                    return
            except httpx.HTTPError:
                time.sleep(0.5)
        self.kill()
        pytest.fail(f"vLLM was not ready in {START_S} s: {self.log.read_text()[-3000:]}")

    def kill(self) -> None:
        """With the process that computes, which is its child."""
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()


_running: dict[Path, VllmProcess] = {}


def vllm_url(model_dir: Path) -> str:
    """Of a vLLM with this model, which runs until the tests end. One at a time: each takes a gigabyte and more."""
    if model_dir not in _running:
        stop_all()
        _running[model_dir] = VllmProcess(model_dir)
        _running[model_dir].wait()
    return _running[model_dir].url


@atexit.register
def stop_all() -> None:
    while _running:
        _running.popitem()[1].kill()
