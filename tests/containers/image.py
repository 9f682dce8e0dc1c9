"""The image that `make image` has built, and its services as processes or as containers of it.

TUNERY_TEST_IMAGE names the image. Where it is set, `start` runs each service as compose.yaml would have it: from the
image, with nothing to write but its volume and /tmp, as a user without rights. Else its command is a process here.
"""

import os
import shlex
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from tests.containers.compose import Service

IMAGE = os.environ.get("TUNERY_TEST_IMAGE", "")  # read at import: no test sees the environment's settings
PODMAN = shlex.split(os.environ.get("TUNERY_TEST_PODMAN", "podman"))
HERE = {"python": [sys.executable], "tunery": [sys.executable, "-m", "tunery"]}
USER = 10001
START_S = 600  # an image has no compiled loops yet


@dataclass
class Stack:
    """Where the services run: `folder` is their volume. `addresses` takes the place of what compose.yaml calls the same
    in commands and environments: names of hosts and the volume's path."""

    folder: Path
    addresses: dict[str, str]
    environment: dict[str, str]  # of the image
    mounts: list[Path] = field(default_factory=list)
    running: list["Running"] = field(default_factory=list)

    def start(self, service: Service, **environment: str) -> "Running":
        command = [self._here(word) for word in service.command]
        values = {**self.environment, **service.environment, **environment}
        values = {name: self._here(value) for name, value in values.items()}
        started = Running(service.name, self._process(service, command, values), self._log(service.name))
        self.running.append(started)
        return started

    def _here(self, value: str) -> str:
        for theirs, ours in self.addresses.items():
            value = value.replace(theirs, ours)
        return value

    def _log(self, name: str) -> Path:
        return self.folder.parent / f"{name}-{len(self.running)}.log"

    def _process(self, service: Service, command: list[str], values: dict[str, str]) -> "subprocess.Popen[bytes]":
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("TUNERY_", "OPENAI_"))}
        if IMAGE:
            command, values = self._in_container(service, command, values), {}
        else:
            command = [*HERE[command[0]], *command[1:]]
        with self._log(service.name).open("wb") as log:
            return subprocess.Popen(command, env=kept | values, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def _in_container(self, service: Service, command: list[str], values: dict[str, str]) -> list[str]:
        run = [*PODMAN, "run", "--rm", "--pull=never", "--no-healthcheck", "--network=host", "--read-only"]
        run += ["--ulimit=nofile=1024:1024", "--ulimit=nproc=4096:4096", f"--stop-timeout={service.stop_s}"]
        run += ["--cap-drop=ALL", "--security-opt=no-new-privileges", "--tmpfs=/tmp"]
        run += [f"--volume={path}:{path}" for path in (self.folder, *self.mounts)]
        run += [f"--env={name}={value}" for name, value in values.items()]
        return [*run, IMAGE, *command]

    def stop(self) -> None:
        for each in self.running:
            each.terminate()
        for each in self.running:
            each.wait()


@dataclass(frozen=True)
class Running:
    name: str
    process: "subprocess.Popen[bytes]"
    log: Path

    def terminate(self) -> None:
        """As `docker stop` does it. A container's process gets it from podman."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)

    def wait(self, timeout_s: float = 120) -> int:
        """Its exit status. One that does not end is killed."""
        try:
            return self.process.wait(timeout_s)
        finally:
            self.process.kill()

    def said(self) -> str:
        return self.log.read_text(errors="replace")[-4000:]

    def wait_until_answers(self, url: str) -> None:
        deadline = time.monotonic() + START_S
        while True:
            assert self.process.poll() is None, f"{self.name} ended: {self.said()}"
            try:
                if httpx.get(url, timeout=10).status_code == 200:
                    return
            except httpx.HTTPError:
                pass
            assert time.monotonic() < deadline, f"{self.name} does not answer: {self.said()}"
            time.sleep(0.1)
