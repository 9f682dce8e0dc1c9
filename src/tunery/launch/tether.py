"""Runs a module as `python -m` would, and ends with the process that started it: `python -m tunery.launch.tether
PARENT_PID MODULE [ARGUMENT ...]`. However the server dies, no orphan keeps its port, its memory or its job. It
stands apart because it is a program: who starts one imports nothing of it.
"""

import ctypes
import gc
import os
import runpy
import signal
import sys

PR_SET_PDEATHSIG = 1


def tie_to_parent(parent_pid: int) -> None:
    """SIGKILL, not SIGTERM: a parent that died without a word leaves no time for farewells, as a power cut would."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    else:
        from tunery.datasets.pool import end_with_parent

        end_with_parent(parent_pid)
    if os.getppid() != parent_pid:  # it died before the call above
        os._exit(1)


def main() -> None:
    parent_pid, module, *arguments = sys.argv[1:]
    tie_to_parent(int(parent_pid))
    # Modules are a million objects and none of them garbage, of which the collector made a fifth of a start.
    gc.set_threshold(50_000)
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
