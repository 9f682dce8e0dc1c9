"""The product's own processes, each started, killed and started again by itself."""

import os
import subprocess
import time
from pathlib import Path

import httpx

REPOSITORY = Path(__file__).parents[1]


class Server:
    """A process that answers on a fixed port and may be killed and started again."""

    def __init__(self, command: list[str], port: int, environment: dict[str, str], log: Path) -> None:
        """Of the outer environment it has all but TUNERY_*."""
        self.command, self.environment, self.log = command, environment, log
        self.url = f"http://127.0.0.1:{port}"
        self.start()

    def start(self) -> None:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("TUNERY_")}
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command, env=environment | self.environment, stdout=log, stderr=log, cwd=REPOSITORY
            )

    def wait(self) -> None:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            try:
                httpx.get(self.url + "/health", timeout=5)
                return
            except httpx.HTTPError:
                assert self.process.poll() is None, self.log.read_text()[-3000:]
                time.sleep(0.1)
        raise TimeoutError(self.log.read_text()[-3000:])

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
