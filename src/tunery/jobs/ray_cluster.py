"""The connection of a process to the Ray cluster that the settings name, or why there is none."""
# pyright: standard
# (not strict: half of Ray's own types are unknown)

import logging
import signal
import socket
import threading
from collections.abc import Mapping
from dataclasses import dataclass

from tunery.settings import SettingsError

CONNECT_S = 5.0


@dataclass(frozen=True)
class Cluster:
    nodes: list[str]  # their names
    resources: Mapping[str, float]  # as Ray names them: CPU, GPU, memory in bytes


def connect(address: str) -> None:
    """For this process, which keeps its way to log and what it does at SIGTERM: Ray would take both for itself. Raises
    SettingsError."""
    at_sigterm, record_factory = signal.getsignal(signal.SIGTERM), logging.getLogRecordFactory()
    try:
        import ray  # not before: it is an extra, and takes a second
        from ray.exceptions import RayError
    except ModuleNotFoundError as exc:
        raise SettingsError("runner is 'ray', and Ray is not installed: pip install 'tunery[ray]'.") from exc
    logging.getLogger("ray").setLevel(logging.WARNING)
    try:
        _knock(address)
        ray.init(address, log_to_driver=False, configure_logging=False)
    except (OSError, RuntimeError, ValueError, RayError) as exc:
        reason = str(exc).strip().partition("\n")[0].rstrip(".")
        raise SettingsError(
            f"runner is 'ray', and there is no cluster at ray_address {address!r} that this machine is a node of: "
            f"{reason}. Start one with `ray start --head`, or join one with `ray start --address=HOST:PORT`."
        ) from exc
    finally:
        logging.setLogRecordFactory(record_factory)
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, at_sigterm)


def _knock(address: str) -> None:
    """Ray itself would wait for a minute. Raises OSError."""
    host, _, port = address.rpartition(":")
    if host and port.isdecimal():
        socket.create_connection((host, int(port)), CONNECT_S).close()


def look(address: str) -> Cluster:
    """What there is, over a connection that is closed again. Raises SettingsError."""
    connect(address)
    import ray

    try:
        nodes = [node["NodeName"] for node in ray.nodes() if node["Alive"]]
        return Cluster(sorted(nodes), ray.cluster_resources())
    finally:
        ray.shutdown()
