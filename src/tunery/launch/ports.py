"""Where a process of this machine can listen, and why it cannot. For the server, its engines and the commands alike."""

import errno
import socket

LOOPBACK = "127.0.0.1"


def free_port(host: str) -> int:
    with _socket(host) as probe:
        probe.bind((host, 0))
        return probe.getsockname()[1]


def is_free(host: str, port: int) -> bool:
    """Whether a server could listen there now."""
    return hindrance(host, port) is None


def hindrance(host: str, port: int) -> str | None:
    """Why a server cannot listen there now, and what to do; None when it can. Port 0 asks for the host alone."""
    with _socket(host) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as uvicorn does: TIME_WAIT is no hindrance
        try:
            probe.bind((host, port))
        except PermissionError:
            return f"This user may not listen on port {port}. Choose one from 1024 on with --port, or --port 0."
        except (OSError, UnicodeError) as exc:
            if isinstance(exc, OSError) and exc.errno == errno.EADDRINUSE:
                return f"Port {port} is taken. Choose another with --port, or --port 0 for any free one."
            return f"This machine has no address {host}. Choose another with --host; 127.0.0.1 is this machine alone."
    return None


def _socket(host: str) -> socket.socket:
    return socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
