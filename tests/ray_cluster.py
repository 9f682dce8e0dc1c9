"""A real Ray cluster on this machine, in a network of its own: a head without processors, and nodes of one each.

What is started with `run` is inside that network. It reaches neither the machine's nor is it reached from there. A
process that `alone` has started is in such a network with all that it starts, and its cluster makes none.
"""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil

PORT = 6379
ADDRESS = f"127.0.0.1:{PORT}"
RAY = str(Path(sys.executable).with_name("ray"))
# Ray would give way to all else that the machine does: its workers have a niceness of 15.
QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": "0"}
IS_ROOT = os.geteuid() == 0


def alone(command: Sequence[str]) -> list[str]:
    """The command in a network of its own, as the same user: Postgres runs as no root."""
    user = [] if IS_ROOT else ["--map-current-user", "--keep-caps"]
    return ["unshare", "--net", *user, "sh", "-c", 'ip link set lo up && exec "$@"', "sh", *command]


class Network:
    """One of its own, kept by a process that sleeps in it."""

    def __init__(self) -> None:
        self._keeper = subprocess.Popen(
            alone(["sh", "-c", "echo up && exec sleep infinity"]), stdout=subprocess.PIPE, text=True
        )
        assert self._keeper.stdout is not None
        if self._keeper.stdout.readline() != "up\n":
            raise RuntimeError("No network of one's own can be made here: unshare --net failed.")

    @property
    def enter(self) -> list[str]:
        """What stands before a command that runs in it."""
        user = [] if IS_ROOT else ["--user", "--preserve-credentials"]
        return ["nsenter", "--net", f"--target={self._keeper.pid}", *user]

    def close(self) -> None:
        self._keeper.kill()
        with self._keeper:  # closes what it wrote to, too
            self._keeper.wait()


class RayCluster:
    def __init__(self, folder: Path, environment: Mapping[str, str], *, is_alone: bool = False) -> None:
        """`environment`: of the nodes, in place of the process's own TUNERY_*. `is_alone`: this process is in a network
        of its own, which the cluster takes."""
        self._folder, self._environment = folder, environment
        self._network = None if is_alone else Network()
        self.nodes: dict[str, subprocess.Popen[bytes]] = {}
        self._temp = tempfile.mkdtemp(prefix="ray-", dir="/tmp")  # short: a socket's path has 107 characters

    def start(self, *names: str, pinned: bool = False) -> None:
        """The head first. One after the other: nodes of one machine that start at once take each other's ports.
        `pinned`: each has a core of this machine to itself."""
        if "head" not in self.nodes:
            head = ["--head", f"--port={PORT}", "--num-cpus=0", "--include-dashboard=false", f"--temp-dir={self._temp}"]
            self._start("head", *head)
            self._wait_for("head")
        for name in names:
            prefix = ["taskset", "--cpu-list", str(len(self.nodes) - 1)] if pinned else []
            self._start(name, f"--address={ADDRESS}", "--num-cpus=1", prefix=prefix)
            self._wait_for(name)

    def _start(self, name: str, *options: str, prefix: Sequence[str] = ()) -> None:
        command = [*prefix, RAY, "start", "--block", "--disable-usage-stats", f"--node-name={name}", *options]
        command += ["--node-ip-address=127.0.0.1", "--object-store-memory=100000000"]
        home = self._folder / name
        home.mkdir(exist_ok=True)
        environment = {**self._environment, "TUNERY_HOME": str(home)}
        with (self._folder / f"{name}.log").open("ab") as log:
            self.nodes[name] = self.run(command, environment, stdout=log, stderr=log)

    def run(self, command: list[str], environment: Mapping[str, str], **options: object) -> subprocess.Popen[bytes]:
        enter = self._network.enter if self._network else []
        kept = {name: value for name, value in os.environ.items() if not name.startswith("TUNERY_")}
        return subprocess.Popen([*enter, *command], env={**kept, **QUIET, **environment}, **options)  # type: ignore[call-overload]

    def _wait_for(self, name: str) -> None:
        log, deadline = self._folder / f"{name}.log", time.monotonic() + 60
        while b"Ray runtime started" not in log.read_bytes():
            if time.monotonic() > deadline:
                raise RuntimeError(f"Ray did not start:\n{log.read_text()}")
            time.sleep(0.1)

    def kill(self, name: str) -> None:
        """The node with all that runs on it, as a power cut would."""
        node = self.nodes.pop(name)
        for process in [psutil.Process(node.pid), *psutil.Process(node.pid).children(recursive=True)]:
            process.send_signal(signal.SIGKILL)
        node.wait()
        (self._folder / f"{name}.log").unlink()

    def trainers(self, name: str) -> list[psutil.Process]:
        """Those that run on the node."""
        below = psutil.Process(self.nodes[name].pid).children(recursive=True)
        return [each for each in below if "tunery.training.child" in _command(each)]

    def workdirs(self, job_id: str) -> list[Path]:
        """Of the job's trainers, on any node."""
        return [*self._folder.glob(f"*/ray/{job_id}-*")]

    def close(self) -> None:
        for name in [*self.nodes]:
            self.kill(name)
        if self._network:
            self._network.close()
        shutil.rmtree(self._temp, ignore_errors=True)


def _command(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []
